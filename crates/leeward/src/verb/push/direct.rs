//! Packs that go from one server to the other, while this process plans, watches and publishes.
//!
//! One of the two is asked to move them: the one that sends if it has the other as a peer, else the one that receives. At its
//! peer it shows a pass, which the peer made for this token and this purpose. What it cannot move travels through this
//! process, unless that was forbidden.

use std::time::{Duration, Instant};

use leeward_api::client::{Location, PACKS_OF_TRANSFER_MAX, PassText, ServerControl, TransferOrder};
use leeward_api::server::{Direction, Purpose, TransferState, TransferStatus};
use leeward_repository::transfer::{Lacking, Relay, Relayed, WholePack};
use leeward_repository::{Control, Error, PackId};

use super::Direct;
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::progress::Progress;
use crate::servers::{self, Side};

/// Packs of one transfer: so few that a pass outlives it on most lines.
const BATCH_PACKS: usize = if PACKS_OF_TRANSFER_MAX < 1024 { PACKS_OF_TRANSFER_MAX } else { 1024 };
/// How long a pass is asked for.
const PASS_SECONDS: u64 = 3600;
/// How often a transfer is looked at: soon at first, for short ones.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_millis(1000);
/// Transfers that are begun in a row though none of them moved a pack.
const TRIES_MAX: u32 = 4;

/// Two servers of which one moves packs to or from the other.
pub struct DirectWay {
    /// The one that is asked.
    mover: ServerControl,
    /// Its peer.
    lender: ServerControl,
    /// What the mover calls it.
    peer: String,
    direction: Direction,
    bytes_per_second: Option<u64>,
    must: bool,
    output: Output,
}

/// How packs travel.
pub enum Way {
    /// From server to server.
    Direct(Box<DirectWay>),
    /// Through this process; why, where both sides are servers and it could have been otherwise.
    Through(Option<String>),
}

/// What `--direct must` says where nothing can go from server to server.
pub fn refused(what: impl Into<String>) -> Failure {
    Failure::new(Code::Refused, what).hint("say --direct auto to let it go through this machine")
}

/// Finds out whether one of two servers can move packs to or from the other.
pub fn find(
    from: (&str, Side),
    to: (&str, Side),
    direct: Direct,
    bytes_per_second: Option<u64>,
    output: &Output,
) -> Result<Way, Failure> {
    let are_servers = Location::is_one(from.0) && Location::is_one(to.0);
    if direct == Direct::Never || !are_servers && direct == Direct::Auto {
        return Ok(Way::Through(None));
    }
    if !are_servers {
        return Err(refused("only two servers can move packs between them, and one side is none"));
    }
    let failed = |error: leeward_store::Error| Failure::from(Error::from(error));
    let (source, target) = (servers::control(from.0, from.1)?, servers::control(to.0, to.1)?);
    let way = |mover, lender, peer, direction| {
        let (must, output) = (direct == Direct::Must, output.clone());
        Way::Direct(Box::new(DirectWay { mover, lender, peer, direction, bytes_per_second, must, output }))
    };
    if let Some(peer) = source.peer_at(target.location()).map_err(failed)? {
        return Ok(way(source, target, peer, Direction::Send));
    }
    if let Some(peer) = target.peer_at(source.location()).map_err(failed)? {
        return Ok(way(target, source, peer, Direction::Fetch));
    }
    let why = format!(
        "neither server has the other as a peer (leeward serve --peer NAME={} at the first, or the other way round)",
        target.location()
    );
    match direct {
        Direct::Must => Err(refused(why)),
        _ => Ok(Way::Through(Some(why))),
    }
}

/// What has been moved so far.
#[derive(Default)]
struct Tally {
    packs: u64,
    bytes: u64,
    /// Why a single pack was left.
    left: Option<String>,
}

impl Tally {
    /// Counts a transfer that has dealt with all of its packs.
    fn done(&mut self, status: &TransferStatus) {
        self.packs += status.packs_moved;
        self.bytes += status.bytes_moved;
        if status.packs_left > 0 {
            let why = status.problem.as_deref().unwrap_or("the server does not say why");
            self.left.get_or_insert_with(|| format!("{} packs were left: {why}", status.packs_left));
        }
    }

    /// Counts what has arrived, whatever was seen of it on its way.
    fn arrived(&mut self, before: &[WholePack], after: &[WholePack]) {
        let bytes = |packs: &[WholePack]| packs.iter().map(|pack| pack.size).sum::<u64>();
        self.packs += before.len().saturating_sub(after.len()) as u64;
        self.bytes += bytes(before).saturating_sub(bytes(after));
    }
}

impl Relay for DirectWay {
    fn relay(
        &self,
        packs: &[WholePack],
        lacking: &Lacking<'_>,
        control: &dyn Control,
    ) -> leeward_repository::Result<Relayed> {
        let total = packs.iter().map(|pack| pack.size).sum();
        let progress = Progress::new(&self.output, total, "from server to server");
        let mut tally = Tally::default();
        let mut gave_up = None;
        for batch in packs.chunks(BATCH_PACKS) {
            gave_up = self.batch(batch, lacking, &mut tally, &progress, control)?;
            if gave_up.is_some() {
                break;
            }
        }
        progress.finish();
        let left_because = gave_up.as_ref().map(|error| leeward_store::with_causes(error));
        if self.must {
            let left = || tally.left.clone().map(|what| self.cannot_move(what, false));
            if let Some(error) = gave_up.or_else(left) {
                return Err(error.into());
            }
        }
        Ok(Relayed {
            by: self.by(),
            packs: tally.packs,
            bytes: tally.bytes,
            left_because: left_because.or(tally.left),
            ..Relayed::default()
        })
    }
}

impl DirectWay {
    /// Who moves, for people.
    pub fn by(&self) -> String {
        let (mover, peer) = (self.mover.location(), &self.peer);
        match self.direction {
            Direction::Send => format!("{mover} sends to its peer {peer}"),
            Direction::Fetch => format!("{mover} fetches from its peer {peer}"),
        }
    }

    /// Has packs moved; begins anew where a server was restarted, a pass has ended, or the way failed, as long as something
    /// moves. Why it gave up, where it did.
    fn batch(
        &self,
        packs: &[WholePack],
        lacking: &Lacking<'_>,
        tally: &mut Tally,
        progress: &Progress,
        control: &dyn Control,
    ) -> leeward_repository::Result<Option<leeward_store::Error>> {
        let (mut tries, mut left) = (0, packs.to_vec());
        loop {
            let ids: Vec<PackId> = left.iter().map(|pack| pack.id).collect();
            let Seen { status, error, is_refused } = self.once(&ids, progress, control);
            if control.is_cancelled() {
                return Err(Error::Interrupted);
            }
            if status.state == TransferState::Done {
                tally.done(&status);
                return Ok(None);
            }
            tries = if status.packs_moved > 0 { 1 } else { tries + 1 };
            let is_final = is_refused || status.state == TransferState::Failed && !status.is_transient;
            let is_over = is_final || tries >= TRIES_MAX;
            if !is_over {
                wait(Duration::from_secs(1 << tries.min(4)), control);
            }
            // A pack that was under way when the transfer was last seen may have arrived, and would arrive twice.
            let after = match lacking(&left) {
                Ok(after) => after,
                // The target is what failed: to be tried again as all else.
                Err(Error::Store(error)) if error.is_transient() => left.clone(),
                Err(error) => return Err(error),
            };
            tally.arrived(&left, &after);
            left = after;
            match is_over {
                _ if left.is_empty() => return Ok(None),
                true => return Ok(Some(error.unwrap_or_else(|| self.failed(status)))),
                false => {}
            }
        }
    }

    /// Whether nothing may go another way.
    pub fn is_must(&self) -> bool {
        self.must
    }

    /// What the mover says of a transfer that failed.
    fn failed(&self, status: TransferStatus) -> leeward_store::Error {
        let what = status.problem.unwrap_or_else(|| "somebody ended it".to_owned());
        self.cannot_move(what, status.is_transient)
    }

    fn cannot_move(&self, what: String, is_transient: bool) -> leeward_store::Error {
        leeward_store::Error::Remote {
            store: self.mover.location().to_string(),
            action: "move",
            key: format!("packs to or from peer {}", self.peer),
            what,
            is_transient,
        }
    }

    /// One transfer, to its end.
    fn once(&self, packs: &[PackId], progress: &Progress, control: &dyn Control) -> Seen {
        let purpose = match self.direction {
            Direction::Send => Purpose::AddPacks,
            Direction::Fetch => Purpose::ReadPacks,
        };
        let pass = match self.lender.make_pass(purpose, PASS_SECONDS) {
            Ok(pass) => pass,
            Err(error) => return not_begun(packs, error),
        };
        let seen = self.begin(packs, &pass, progress, control);
        self.lender.end_pass(&pass);
        seen
    }

    fn begin(&self, packs: &[PackId], pass: &PassText, progress: &Progress, control: &dyn Control) -> Seen {
        let begun = new_id().and_then(|id| {
            let (peer, direction, bytes_per_second) = (&self.peer, self.direction, self.bytes_per_second);
            let order = TransferOrder { id: &id, peer, direction, pass, packs, bytes_per_second };
            self.mover.begin_transfer(&order).map(|status| (id, status))
        });
        match begun {
            Ok((id, status)) => self.watch(&id, status, progress, control),
            Err(error) => not_begun(packs, error),
        }
    }

    /// Looks at a transfer until it has ended.
    fn watch(
        &self,
        id: &str,
        mut status: TransferStatus,
        progress: &Progress,
        control: &dyn Control,
    ) -> Seen {
        let (mut pause, mut shown) = (FIRST_LOOK, 0);
        loop {
            progress.add(status.bytes_moved.saturating_sub(shown));
            shown = status.bytes_moved;
            if status.state != TransferState::Running {
                return Seen { status, error: None, is_refused: false };
            }
            wait(pause, control);
            if control.is_cancelled() {
                self.mover.cancel_transfer(id);
                return Seen { status, error: None, is_refused: false };
            }
            pause = (pause * 2).min(LOOK);
            status = match self.mover.transfer(id) {
                Ok(status) => status,
                Err(error) => return Seen { status, error: Some(error), is_refused: false },
            };
        }
    }
}

/// How far a transfer was when it was last seen, and why it cannot be seen any more.
struct Seen {
    status: TransferStatus,
    error: Option<leeward_store::Error>,
    /// Whether it would be refused again.
    is_refused: bool,
}

/// A transfer that did not begin.
fn not_begun(packs: &[PackId], error: leeward_store::Error) -> Seen {
    let is_refused = matches!(error, leeward_store::Error::Denied { .. });
    Seen { status: nothing(packs), error: Some(error), is_refused }
}

fn nothing(packs: &[PackId]) -> TransferStatus {
    TransferStatus {
        state: TransferState::Failed,
        packs: packs.len() as u64,
        packs_moved: 0,
        bytes_moved: 0,
        packs_left: 0,
        problem: None,
        is_transient: true,
    }
}

fn new_id() -> Result<String, leeward_store::Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| leeward_store::Error::Unsupported {
        store: "this machine".to_owned(),
        what: "the system gives no random bytes".to_owned(),
    })?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Waits, but not longer than work is wanted.
fn wait(time: Duration, control: &dyn Control) {
    let until = Instant::now() + time;
    while !control.is_cancelled() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}
