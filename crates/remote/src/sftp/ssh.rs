//! The program `ssh` as the way to a server: it knows the user's configuration, keys, agents, jump hosts and known hosts.
//!
//! It asks nobody anything (`BatchMode`), and accepts no host whose key is not known. What it says goes into messages.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::host::Host;
use crate::environment::Environment;

/// How many of its last lines are kept, and how much of each, in bytes.
const LINES_MAX: usize = 20;
const LINE_BYTES_MAX: u64 = 2048;

/// How to call it.
#[derive(Debug, Clone)]
pub(super) struct Ssh {
    host: Host,
    key: Option<String>,
    config: Option<String>,
}

/// Why there is no connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Somebody has to do something: what.
    ForGood(String),
    /// It may pass.
    InPassing(String),
}

impl Ssh {
    pub(super) fn new(host: Host, environment: &Environment) -> Self {
        let [key, config] = ["LEEWARD_SFTP_KEY", "LEEWARD_SFTP_CONFIG"].map(|name| environment.get(name));
        Self { host, key, config }
    }

    fn arguments(&self) -> Vec<String> {
        // What it tells at this level holds the fingerprint of a host that is not known.
        let fixed = [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "ConnectTimeout=10",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=4",
            "ClearAllForwardings=yes",
            "ForwardAgent=no",
            "ForwardX11=no",
            "PermitLocalCommand=no",
            "RequestTTY=no",
            "LogLevel=DEBUG1",
        ];
        let mut arguments: Vec<String> =
            fixed.iter().flat_map(|option| ["-o".to_owned(), (*option).to_owned()]).collect();
        let mut add = |name: &str, value: &Option<String>| {
            if let Some(value) = value {
                arguments.extend([name.to_owned(), value.clone()]);
            }
        };
        add("-F", &self.config);
        add("-l", &self.host.user);
        add("-p", &self.host.port.map(|port| port.to_string()));
        add("-i", &self.key);
        if self.key.is_some() {
            arguments.extend(["-o".to_owned(), "IdentitiesOnly=yes".to_owned()]);
        }
        arguments.extend(["-s", "--", &self.host.name, "sftp"].map(str::to_owned));
        arguments
    }

    /// Starts it. It ends when its input is closed.
    pub(super) fn start(&self) -> Result<Child, Refused> {
        let mut command = Command::new("ssh");
        command.args(self.arguments()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // An interruption at the terminal is for this program, which may have something to finish first.
        command.process_group(0);
        command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound => Refused::ForGood(
                "the program ssh is not here: install OpenSSH's client (openssh-client)".to_owned(),
            ),
            _ => Refused::ForGood(format!("the program ssh does not start: {error}")),
        })
    }

    /// What a person would type to reach the host.
    fn command(&self) -> String {
        let Host { user, name, port } = &self.host;
        let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let port = port.map(|port| format!(" -p {port}")).unwrap_or_default();
        format!("ssh{port} {user}{name}")
    }

    /// That the server says something before it speaks SFTP.
    pub(super) fn babble(&self) -> Refused {
        Refused::ForGood(format!(
            "{0} sends what is no SFTP: usually a start-up file of the user's shell there prints something, see: ssh {0} true",
            self.host.name
        ))
    }

    /// What became of a connection that did not come about, from what was said.
    pub(super) fn diagnose(&self, said: &Said) -> Refused {
        let host = &self.host.name;
        let has = |words: &str| said.lines.iter().any(|line| line.contains(words));
        let last = said.last();
        if has("REMOTE HOST IDENTIFICATION HAS CHANGED") {
            return Refused::ForGood(format!(
                "{host} shows another host key than the one that is known here{}: either it was set up anew, or somebody \
                 stands in between. Ask its administrator; if it is right, forget the old key with: ssh-keygen -R {host}",
                said.fingerprint()
            ));
        }
        if has("Host key verification failed") || has("host key is known for") {
            return Refused::ForGood(format!(
                "the host key of {host} is not known here{}: compare it with the one that its administrator tells \
                 (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub on {host}), and accept it by calling once: {}",
                said.fingerprint(),
                self.command()
            ));
        }
        if has("Permission denied") || has("Too many authentication failures") {
            return Refused::ForGood(format!(
                "{host} takes none of the keys ({last}): name one by LEEWARD_SFTP_KEY, load it into the agent (ssh-add), \
                 and let the server know it (ssh-copy-id); try with: {}",
                self.command()
            ));
        }
        if has("subsystem request failed") {
            return Refused::ForGood(format!(
                "{host} offers no SFTP: switch the subsystem sftp on in its sshd_config"
            ));
        }
        if has("Could not resolve hostname")
            || has("Bad configuration option")
            || has("Can't open user config file")
        {
            return Refused::ForGood(format!(
                "{last}; see how the host's name is spelt, and ssh's configuration"
            ));
        }
        Refused::InPassing(format!("{last}; see that sshd runs there, and that a firewall lets you through"))
    }
}

/// What ssh says beside the data.
#[derive(Debug, Default)]
pub(super) struct Said {
    lines: VecDeque<String>,
    host_key: Option<String>,
}

impl Said {
    fn note(&mut self, line: &str) {
        if let Some(key) = line.strip_prefix("debug1: Server host key: ") {
            self.host_key = Some(key.to_owned());
        }
        if line.starts_with("debug") || line.trim().is_empty() {
            return;
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line.chars().filter(|character| !character.is_control()).collect());
    }

    fn fingerprint(&self) -> String {
        self.host_key.as_ref().map(|key| format!(" ({key})")).unwrap_or_default()
    }

    /// Its last words.
    pub(super) fn last(&self) -> String {
        self.lines.back().map_or_else(|| "ssh ended without a word".to_owned(), Clone::clone)
    }
}

/// Collects what ssh says, until it ends.
#[derive(Debug, Clone, Default)]
pub(super) struct Listener(Arc<Mutex<Said>>);

impl Listener {
    /// Listens on a thread of its own. The receiver hears when there is no more to come.
    pub(super) fn listen(&self, from: ChildStderr) -> std::sync::mpsc::Receiver<()> {
        let (sender, ended) = std::sync::mpsc::channel();
        let said = Arc::clone(&self.0);
        std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).is_ok_and(|count| count > 0)
            {
                let text = String::from_utf8_lossy(&line);
                said.lock().unwrap_or_else(PoisonError::into_inner).note(text.trim_end());
                line.clear();
            }
            drop(sender);
        });
        ended
    }

    pub(super) fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Refused, Said, Ssh};
    use crate::environment::Environment;
    use crate::sftp::host::Host;

    fn ssh(text: &str, variables: &[(&str, &str)]) -> Ssh {
        Ssh::new(Host::parse(text).unwrap(), &Environment::of(variables))
    }

    #[test]
    fn the_call_has_user_port_and_key_and_ends_with_the_host() {
        let call = ssh("u@h:2222", &[("LEEWARD_SFTP_KEY", "/k")]).arguments().join(" ");
        assert!(call.contains("-l u -p 2222 -i /k -o IdentitiesOnly=yes -s -- h sftp"), "{call}");
        assert!(call.contains("BatchMode=yes") && call.contains("StrictHostKeyChecking=yes"), "{call}");
    }

    #[test]
    fn an_unknown_host_is_told_with_its_fingerprint() {
        let mut said = Said::default();
        for line in [
            "debug1: Server host key: ssh-ed25519 SHA256:abc",
            "No ED25519 host key is known for [h]:2222 and you have requested strict checking.",
            "Host key verification failed.",
        ] {
            said.note(line);
        }
        let Refused::ForGood(text) = ssh("u@h:2222", &[]).diagnose(&said) else { panic!("it will not pass") };
        assert!(text.contains("SHA256:abc") && text.contains("ssh -p 2222 u@h"), "{text}");
    }

    #[test]
    fn a_refused_connection_may_pass_and_a_refused_key_does_not() {
        let of = |line: &str| {
            let mut said = Said::default();
            said.note(line);
            ssh("h", &[]).diagnose(&said)
        };
        assert!(matches!(of("ssh: connect to host h port 22: Connection refused"), Refused::InPassing(_)));
        assert!(
            matches!(of("h: Permission denied (publickey)."), Refused::ForGood(text) if text.contains("LEEWARD_SFTP_KEY"))
        );
    }
}
