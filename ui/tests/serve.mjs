// Serves the pages over a made-up site, to work on them: `node serve.mjs [PORT]`, then open the address and paste the token.

import { serve, TOKEN } from './mock.mjs';
import { held, stuck, waiting, writing } from './scenes.mjs';
import { World } from './world.mjs';

const world = new World({ runs: 1000 });
stuck(world);
held(world);
waiting(world);
const run = writing(world);
let done = 1.2 * 2 ** 30;
setInterval(() => {
  done = done > 3.1 * 2 ** 30 ? 0 : done + 4e7;
  world.advance(run, 'write_image_to_bv', done, 3.2 * 2 ** 30, 'a made-up volume');
  world.say(run, 'write_image_to_bv', `${Math.round(done / 2 ** 20)} MiB written`);
}, 1000);
const { url } = await serve(world, Number(process.argv[2] ?? 0));
console.log(`${url}\ntoken: ${TOKEN}`);
