//! The policies of a run, and what each says to a request. The expectation is written here a second time, by hand and without the
//! proxy's code, so that the two can disagree.

use std::fmt::Write as _;

use crate::keys::Slot;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Always allowed, with the secret of [`Slot::Bearer`].
    V1,
    /// Always allowed, with the secret of [`Slot::Header`].
    Other,
    /// Always allowed, without a secret, at a host that has some: no key of the agent's own may go there.
    Bare,
    /// Allowed by some policies.
    Flip,
    /// Allowed with the one secret by some policies, and with the other by the rest.
    Swap,
    /// A WebSocket, allowed by some policies.
    Socket,
    /// Never allowed: a path.
    Admin,
    /// Never allowed: a port.
    Port,
    /// Never allowed: a host.
    Evil,
    /// A host that is named by some policies, and never with a secret.
    Repo,
    /// Always allowed, in plain HTTP.
    Plain,
    /// In plain HTTP, allowed by some policies.
    PlainFlip,
    /// Allowed by the policy of this number and no other.
    Number(u32),
}

impl Place {
    /// The host.
    #[must_use]
    pub const fn host(self) -> &'static str {
        match self {
            Self::Evil => "evil.test",
            Self::Repo => "git.good.test",
            Self::Plain | Self::PlainFlip => "plain.good.test",
            _ => "api.good.test",
        }
    }

    /// The port.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Port => 8443,
            Self::Plain | Self::PlainFlip => 80,
            _ => 443,
        }
    }

    /// The path, up to the number of the request.
    #[must_use]
    pub fn path(self) -> String {
        match self {
            Self::V1 | Self::Port | Self::Evil | Self::Plain => "/v1/".to_owned(),
            Self::Other => "/other/".to_owned(),
            Self::Bare => "/bare/".to_owned(),
            Self::Flip | Self::PlainFlip => "/flip/".to_owned(),
            Self::Swap => "/swap/".to_owned(),
            Self::Socket => "/socket/".to_owned(),
            Self::Admin => "/admin/".to_owned(),
            Self::Repo => "/repo/".to_owned(),
            Self::Number(number) => format!("/number/{number}/"),
        }
    }

    /// The rule by whose name the base-URL entrance finds the host.
    #[must_use]
    pub const fn base(self) -> &'static str {
        match self {
            Self::Evil => "nobody",
            Self::Repo => "repo",
            Self::Plain | Self::PlainFlip => "plain",
            _ => "v1",
        }
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Of what.
    pub place: Place,
    /// The method.
    pub method: &'static str,
    /// Whether the agent shows a key of its own.
    pub own_key: bool,
    /// Whether it asks for a WebSocket.
    pub socket: bool,
}

/// What a policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is allowed, with this secret.
    Allow(Option<Slot>),
    /// It is denied, for this reason.
    Deny(&'static str),
}

/// One policy of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    number: u32,
    flip: bool,
    plain_flip: bool,
    repo: bool,
    socket: bool,
    swap: Slot,
}

impl Policy {
    /// The policy of this number; the same seed has the same policies.
    #[must_use]
    pub fn of(seed: u64, number: u32) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ (u64::from(number) << 32));
        let swap = if random.bool() { Slot::Bearer } else { Slot::Header };
        let mut some = || random.bool();
        Self { number, flip: some(), plain_flip: some(), repo: some(), socket: some(), swap }
    }

    /// Whether a tunnel, or a TLS connection, to host and port of this place may be opened.
    #[must_use]
    pub fn admits(&self, place: Place) -> bool {
        match place {
            Place::Evil | Place::Port => false,
            Place::Repo => self.repo,
            _ => true,
        }
    }

    /// What it says to a request.
    #[must_use]
    pub fn verdict(&self, ask: &Ask) -> Verdict {
        let known = match ask.place {
            Place::Evil => Err("HostNotAllowed"),
            Place::Repo if !self.repo => Err("HostNotAllowed"),
            Place::Port => Err("PortNotAllowed"),
            // No rule has it, so the path does not matter.
            _ if ask.method == "DELETE" => Err("MethodNotAllowed"),
            Place::Admin => Err("PathNotAllowed"),
            Place::Flip if !self.flip => Err("PathNotAllowed"),
            Place::PlainFlip if !self.plain_flip => Err("PathNotAllowed"),
            Place::Socket if !self.socket => Err("PathNotAllowed"),
            Place::Number(number) if number != self.number => Err("PathNotAllowed"),
            Place::V1 | Place::Flip | Place::Socket | Place::Number(_) => Ok(Some(Slot::Bearer)),
            Place::Other => Ok(Some(Slot::Header)),
            Place::Swap => Ok(Some(self.swap)),
            Place::Bare | Place::Repo | Place::Plain | Place::PlainFlip => Ok(None),
        };
        match known {
            Ok(_) if ask.socket && ask.place != Place::Socket => Verdict::Deny("WebsocketNotAllowed"),
            Ok(None) if ask.own_key && ask.place == Place::Bare => Verdict::Deny("ForeignCredential"),
            Ok(slot) => Verdict::Allow(slot),
            Err(reason) => Verdict::Deny(reason),
        }
    }

    /// The document.
    #[must_use]
    pub fn document(&self, upstream_ca_pem: &str) -> String {
        let number = self.number;
        let api = "host: api.good.test, ports: [443], scheme: https, methods: [GET, POST]";
        let mut text = format!(
            "apiVersion: policy.agentsandbox.dev/v1
sandbox: {{namespace: soak, name: agent, uid: u1}}
generation: {number}
credentials:
- {{name: bearer, inject: {{type: Bearer}}, scopes: [{{host: api.good.test, ports: [443]}}]}}
- {{name: header, inject: {{type: Header, name: x-api-key}}, scopes: [{{host: api.good.test, ports: [443]}}]}}
upstream:
  additionalRoots: |
    {}
rules:
- {{name: v1, {api}, paths: ['/v1/*'], credential: bearer}}
- {{name: other, {api}, paths: ['/other/*'], credential: header}}
- {{name: bare, {api}, paths: ['/bare/*']}}
- {{name: swap, {api}, paths: ['/swap/*'], credential: {}}}
- {{name: number, {api}, paths: ['/number/{number}/*'], credential: bearer}}
",
            upstream_ca_pem.trim().replace('\n', "\n    "),
            self.swap.name()
        );
        let plain = "host: plain.good.test, ports: [80], scheme: http, methods: [GET, POST]";
        let paths = if self.plain_flip { "'/v1/*', '/flip/*'" } else { "'/v1/*'" };
        let _ = writeln!(text, "- {{name: plain, {plain}, paths: [{paths}]}}");
        if self.flip {
            let _ = writeln!(text, "- {{name: flip, {api}, paths: ['/flip/*'], credential: bearer}}");
        }
        if self.socket {
            let rule = "paths: ['/socket/*'], credential: bearer, websocket: Allow";
            let _ = writeln!(text, "- {{name: socket, {api}, {rule}}}");
        }
        if self.repo {
            let repo = "host: git.good.test, ports: [443], scheme: https, methods: [GET, POST]";
            let _ = writeln!(text, "- {{name: repo, {repo}, paths: ['/repo/*']}}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ask(place: Place) -> Ask {
        Ask { place, method: "GET", own_key: false, socket: false }
    }

    #[test]
    fn policies_differ_and_each_is_the_same_for_the_same_seed() {
        let all: Vec<Policy> = (0..64).map(|number| Policy::of(7, number)).collect();
        assert_eq!(all, (0..64).map(|number| Policy::of(7, number)).collect::<Vec<_>>());
        for place in [Place::Flip, Place::PlainFlip, Place::Repo, Place::Socket] {
            let allowing =
                all.iter().filter(|policy| matches!(policy.verdict(&ask(place)), Verdict::Allow(_)));
            let count = allowing.count();
            assert!((1..64).contains(&count), "{place:?} is allowed by {count} of 64");
        }
    }

    #[test]
    fn a_denial_has_the_reason_of_what_is_closest() {
        let policy = Policy::of(1, 1);
        let delete = Ask { method: "DELETE", ..ask(Place::V1) };
        let socket = Ask { socket: true, ..ask(Place::V1) };
        let own = Ask { own_key: true, ..ask(Place::Bare) };
        for (asked, reason) in [
            (ask(Place::Evil), "HostNotAllowed"),
            (ask(Place::Port), "PortNotAllowed"),
            (ask(Place::Admin), "PathNotAllowed"),
            (ask(Place::Number(2)), "PathNotAllowed"),
            (delete, "MethodNotAllowed"),
            (socket, "WebsocketNotAllowed"),
            (own, "ForeignCredential"),
        ] {
            assert_eq!(policy.verdict(&asked), Verdict::Deny(reason), "{asked:?}");
        }
        assert_eq!(policy.verdict(&ask(Place::Number(1))), Verdict::Allow(Some(Slot::Bearer)));
        assert_eq!(policy.verdict(&ask(Place::Bare)), Verdict::Allow(None));
    }
}
