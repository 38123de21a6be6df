//! Passes: what a token lends to another server, for a while, to move packs.
//!
//! A pass is for packs and for one direction, so it can do less than any token: it adds packs, which the server checks by
//! their names, or it reads them. It counts as the token that it was made with: that one's quota bears what it stores, and
//! it ends when that one ends. Passes are kept in memory alone; a server that is started anew knows none.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use leeward_store::Key;
use serde::{Deserialize, Serialize};

use crate::problem::{Code, Problem};
use crate::token::{Role, Token, TokenFile, TokenText, hex};

/// What the text of a pass begins with.
pub(super) const TEXT_PREFIX: &str = "lwp_";
/// The longest life of a pass.
const LIFE_MAX: Duration = Duration::from_secs(3600);
/// Passes at once, of one token and in all.
const PASSES_OF_TOKEN_MAX: usize = 16;
const PASSES_MAX: usize = 512;

/// What a pass is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Adds packs, and sees whether they are there.
    AddPacks,
    /// Reads packs.
    ReadPacks,
}

impl Purpose {
    /// Whether the token may do itself what it would lend.
    fn is_of(self, token: &Token) -> bool {
        match self {
            Self::AddPacks => token.role != Role::Reader,
            Self::ReadPacks => token.role != Role::Writer,
        }
    }

    /// Whether a request of this class about this object is covered; no other request is.
    pub(super) fn covers(self, class: &str, key: &Key) -> bool {
        let is_covered = match self {
            Self::AddPacks => matches!(class, "head" | "put"),
            Self::ReadPacks => matches!(class, "head" | "get"),
        };
        is_covered && key.as_str().starts_with("packs/")
    }
}

struct Pass {
    /// Names it where it is taken back; no secret.
    id: String,
    /// The token that lends.
    token: String,
    purpose: Purpose,
    until: Instant,
}

/// A pass as its maker gets it. Does not print.
pub(super) struct NewPass {
    pub(super) id: String,
    pub(super) text: TokenText,
    pub(super) seconds: u64,
}

/// The passes of a running server, by the digests of their texts.
#[derive(Default)]
pub(super) struct Passes(Mutex<HashMap<[u8; 32], Pass>>);

impl Passes {
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Pass>> {
        let mut passes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        passes.retain(|_, pass| pass.until > now);
        passes
    }

    /// Makes a pass of a token.
    pub(super) fn make(&self, token: &Token, purpose: Purpose, seconds: u64) -> Result<NewPass, Problem> {
        if !purpose.is_of(token) {
            return Err(Problem::denied(format!(
                "token {:?} ({}) may not do itself what the pass would be for",
                token.name,
                token.role.name()
            )));
        }
        let mut passes = self.lock();
        let of_token = passes.values().filter(|pass| pass.token == token.id).count();
        if passes.len() >= PASSES_MAX || of_token >= PASSES_OF_TOKEN_MAX {
            let what =
                format!("token {:?} has {of_token} passes, there are {} in all", token.name, passes.len());
            return Err(Problem::new(Code::Busy, what, "let one of them end, then try again"));
        }
        let failed = |_| Problem::new(Code::Failed, "the system gives no random bytes", "try again");
        let (mut secret, mut number) = ([0; 32], [0; 8]);
        getrandom::fill(&mut secret).and_then(|()| getrandom::fill(&mut number)).map_err(failed)?;
        let (text, id) = (TokenText::new(format!("{TEXT_PREFIX}{}", hex(&secret))), hex(&number));
        let life = Duration::from_secs(seconds).clamp(Duration::from_secs(1), LIFE_MAX);
        let pass = Pass { id: id.clone(), token: token.id.clone(), purpose, until: Instant::now() + life };
        passes.insert(*text.digest().as_bytes(), pass);
        Ok(NewPass { id, text, seconds: life.as_secs() })
    }

    /// Takes a pass back; `false` where the token has none of that id.
    pub(super) fn end(&self, token: &Token, id: &str) -> bool {
        let mut passes = self.lock();
        let before = passes.len();
        passes.retain(|_, pass| pass.id != id || pass.token != token.id);
        passes.len() < before
    }

    /// The token behind a pass, under the name that logs have, and what the pass is for; none where either is not valid any
    /// more. A pass is found by the digest of 256 random bits, so the time of the search tells nothing of its text.
    pub(super) fn find(&self, text: &TokenText, tokens: &TokenFile) -> Option<(Token, Purpose)> {
        let passes = self.lock();
        let pass = passes.get(text.digest().as_bytes())?;
        let token = tokens.tokens.iter().find(|token| token.id == pass.token)?;
        let is_valid = !token.has_expired(Timestamp::now()) && pass.purpose.is_of(token);
        let mut lent = token.clone();
        lent.name = format!("{} by pass {}", token.name, pass.id);
        is_valid.then_some((lent, pass.purpose))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::NewToken;

    fn file(role: Role) -> TokenFile {
        let mut file = TokenFile::default();
        let new =
            NewToken { name: "a".to_owned(), role, prefixes: Vec::new(), quota_bytes: None, expires: None };
        file.add(new).unwrap();
        file
    }

    #[test]
    fn a_pass_does_less_than_its_token_and_ends_with_it() {
        let (mut tokens, passes) = (file(Role::Operator), Passes::default());
        let pass = passes.make(&tokens.tokens[0], Purpose::AddPacks, 60).unwrap();
        let (token, purpose) = passes.find(&pass.text, &tokens).unwrap();
        assert_eq!(
            (token.id.clone(), token.name.starts_with("a by pass ")),
            (tokens.tokens[0].id.clone(), true)
        );
        let pack = Key::new("packs/00".to_owned()).unwrap();
        let other = Key::new("refs/web".to_owned()).unwrap();
        assert!(purpose.covers("put", &pack) && purpose.covers("head", &pack));
        assert!(
            !purpose.covers("get", &pack)
                && !purpose.covers("delete", &pack)
                && !purpose.covers("put", &other)
        );
        assert!(passes.find(&TokenText::new("lwp_00"), &tokens).is_none());
        tokens.remove("a");
        assert!(passes.find(&pass.text, &tokens).is_none(), "its token is gone");
    }

    #[test]
    fn nobody_lends_what_he_has_not_and_passes_are_few_and_end() {
        let passes = Passes::default();
        let (reader, writer) = (file(Role::Reader), file(Role::Writer));
        assert!(passes.make(&reader.tokens[0], Purpose::AddPacks, 60).is_err());
        assert!(passes.make(&writer.tokens[0], Purpose::ReadPacks, 60).is_err());
        let made = passes.make(&writer.tokens[0], Purpose::AddPacks, u64::MAX).unwrap();
        assert_eq!(made.seconds, LIFE_MAX.as_secs());
        for _ in 1..PASSES_OF_TOKEN_MAX {
            passes.make(&writer.tokens[0], Purpose::AddPacks, 60).unwrap();
        }
        assert!(passes.make(&writer.tokens[0], Purpose::AddPacks, 60).is_err());
        assert!(!passes.end(&reader.tokens[0], &made.id), "it is another's");
        assert!(passes.end(&writer.tokens[0], &made.id) && passes.find(&made.text, &writer).is_none());
        let brief = passes.make(&writer.tokens[0], Purpose::AddPacks, 1).unwrap();
        passes.0.lock().unwrap().values_mut().for_each(|pass| pass.until = Instant::now());
        assert!(passes.find(&brief.text, &writer).is_none());
    }
}
