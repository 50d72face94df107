//! What the parts of the world share: the journal, the gates, the keys that are right, the CA, the servers behind the hosts.
//!
//! One value, cheap to clone. Nothing here decides; the sites read it and the control socket changes it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::authority::Authority;
use crate::gates::Gates;
use crate::journal::Journal;
use crate::servers::Servers;

/// The shared state. Clones share it.
#[derive(Clone)]
pub struct World(Arc<Shared>);

struct Shared {
    journal: Journal,
    gates: Gates,
    keys: RwLock<BTreeMap<String, String>>,
    authority: Arc<Authority>,
    servers: Servers,
}

impl World {
    /// A world in which nothing has happened and no key is right.
    #[must_use]
    pub fn new(authority: Arc<Authority>, servers: Servers) -> Self {
        let (journal, gates, keys) = Default::default();
        Self(Arc::new(Shared { journal, gates, keys, authority, servers }))
    }

    /// What arrived.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// The gates at which streams wait.
    #[must_use]
    pub fn gates(&self) -> &Gates {
        &self.0.gates
    }

    /// The CA.
    #[must_use]
    pub fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.0.authority)
    }

    /// The real servers.
    #[must_use]
    pub fn servers(&self) -> &Servers {
        &self.0.servers
    }

    /// The key that a service accepts; none means that it accepts none.
    #[must_use]
    pub fn key(&self, service: &str) -> Option<String> {
        self.0.keys.read().unwrap_or_else(PoisonError::into_inner).get(service).cloned()
    }

    /// Sets the keys named, and leaves the others.
    pub fn set_keys(&self, keys: BTreeMap<String, String>) {
        self.0.keys.write().unwrap_or_else(PoisonError::into_inner).extend(keys);
    }
}
