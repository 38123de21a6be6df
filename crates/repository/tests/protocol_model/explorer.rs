//! An exhaustive search through the states of a model, breadth first, so that a counterexample has as few steps as any.
//!
//! States are told apart by 128 bits of hash. Of a state that was visited only its parent and the number of the step
//! are kept; a counterexample is made again by taking the same steps.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// Who is told of a state that is one step away, and of what happens.
pub type Visit<'a, State> = dyn FnMut(State, &dyn Fn() -> String) + 'a;

/// What is searched.
pub trait Model {
    /// A state of everything.
    type State: Copy + Hash;

    /// Calls `visit` with every state that is one step away, always in the same order, and with what happens.
    fn steps(&self, state: &Self::State, visit: &mut Visit<'_, Self::State>);

    /// What is wrong with a state.
    fn flaw(&self, state: &Self::State) -> Option<String>;
}

/// What a search came to.
pub struct Found {
    /// States that were visited.
    pub states: usize,
    /// The most steps from the start.
    pub depth: usize,
    /// What is wrong, with the steps that lead there.
    pub flaw: Option<(String, Vec<String>)>,
    /// Whether the search stopped at its bound before it had seen everything.
    pub is_cut: bool,
}

impl Found {
    /// The counterexample, as lines.
    pub fn tell(&self) -> String {
        match &self.flaw {
            None => format!("{} states, {} steps deep, nothing wrong", self.states, self.depth),
            Some((flaw, steps)) => {
                let steps: Vec<String> =
                    steps.iter().enumerate().map(|(n, step)| format!("  {:>3}. {step}", n + 1)).collect();
                format!("{flaw}, after:\n{}", steps.join("\n"))
            }
        }
    }
}

/// Visits every state that can be reached, at most `states_max`, until one has a flaw.
pub fn explore<M: Model>(model: &M, start: M::State, states_max: usize) -> Found {
    let mut seen: HashSet<u128, BuildHasherDefault<Taken>> = HashSet::default();
    let mut parents: Vec<(u32, u8)> = vec![(0, 0)];
    let mut level = vec![(0_u32, start)];
    let mut depth = 0;
    seen.insert(fingerprint(&start));
    let found =
        |parents: &Vec<(u32, u8)>, depth, flaw, is_cut| Found { states: parents.len(), depth, flaw, is_cut };
    if let Some(flaw) = model.flaw(&start) {
        return found(&parents, 0, Some((flaw, Vec::new())), false);
    }
    while !level.is_empty() {
        let mut next = Vec::new();
        for (number, state) in &level {
            let (mut ordinal, mut flawed) = (0_u8, None);
            model.steps(state, &mut |after, _| {
                if seen.insert(fingerprint(&after)) {
                    next.push((parents.len() as u32, after));
                    parents.push((*number, ordinal));
                    if flawed.is_none() {
                        flawed = model.flaw(&after).map(|flaw| (flaw, parents.len() - 1));
                    }
                }
                ordinal += 1;
            });
            if let Some((flaw, at)) = flawed {
                let steps = retrace(model, start, &parents, at);
                return found(&parents, depth + 1, Some((flaw, steps)), false);
            }
            if parents.len() > states_max {
                return found(&parents, depth, None, true);
            }
        }
        level = next;
        depth += usize::from(!level.is_empty());
    }
    found(&parents, depth, None, false)
}

/// The steps that lead to a state.
fn retrace<M: Model>(model: &M, start: M::State, parents: &[(u32, u8)], mut at: usize) -> Vec<String> {
    let mut ordinals = Vec::new();
    while at != 0 {
        let (parent, ordinal) = parents[at];
        ordinals.push(ordinal);
        at = parent as usize;
    }
    let mut state = start;
    let mut told = Vec::new();
    for wanted in ordinals.into_iter().rev() {
        let (mut ordinal, mut chosen) = (0_u8, None);
        model.steps(&state, &mut |after, tell| {
            if ordinal == wanted {
                chosen = Some((after, tell()));
            }
            ordinal += 1;
        });
        let Some((after, text)) = chosen else { break };
        state = after;
        told.push(text);
    }
    told
}

/// 128 bits that tell states apart.
pub fn fingerprint(state: &impl Hash) -> u128 {
    let mut mixer = Mixer { low: 0x9e37_79b9_7f4a_7c15, high: 0xc2b2_ae3d_27d4_eb4f };
    state.hash(&mut mixer);
    u128::from(mixer.finish()) << 64 | u128::from(mixer.low)
}

/// Two multiplications of 64 bits, folded, for each word.
struct Mixer {
    low: u64,
    high: u64,
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.low = fold(self.low ^ value, 0xa076_1d64_78bd_642f).wrapping_add(self.high.rotate_left(23));
        self.high = fold(self.high ^ value.rotate_left(32), 0xe703_7ed1_a0b4_28db).wrapping_add(0x9e37);
    }

    fn finish(&self) -> u64 {
        fold(self.high ^ 0x8ebc_6af0_9c88_c6e3, self.low ^ 0x5896_5d8b_e1d7_5a17)
    }
}

/// The hash of a fingerprint is a part of it.
#[derive(Default)]
pub struct Taken(u64);

impl Hasher for Taken {
    fn write(&mut self, bytes: &[u8]) {
        let mut word = [0; 8];
        let length = bytes.len().min(8);
        word[..length].copy_from_slice(&bytes[..length]);
        self.0 = u64::from_le_bytes(word);
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
