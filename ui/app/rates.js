// How fast steps are, from what they said of their progress.

/** How far back a rate looks, in milliseconds. */
const WINDOW_MS = 20_000;

/** Takes what a run's steps say, again and again, and gives bytes per second by name. */
export class Rates {
  #samples = new Map();

  take(progress) {
    const rates = {};
    for (const [step, { done, at }] of Object.entries(progress)) {
      const samples = this.#kept(step, done, Date.parse(at));
      const [first, last] = [samples[0], samples.at(-1)];
      if (last.at > first.at) rates[step] = ((last.done - first.done) / (last.at - first.at)) * 1000;
    }
    return rates;
  }

  #kept(step, done, at) {
    const before = this.#samples.get(step) ?? [];
    const last = before.at(-1);
    // A new attempt may begin anew.
    let samples = last && done < last.done ? [] : before;
    if (!last || last.at !== at || samples.length === 0) samples = [...samples, { done, at }];
    samples = samples.filter((sample, index) => sample.at >= at - WINDOW_MS || index === samples.length - 1);
    this.#samples.set(step, samples);
    return samples;
  }
}
