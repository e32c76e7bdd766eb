//! The chaos of a running mock: which plan is on, and what it has done.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use super::{ConnectionFaults, Effect, Injected, Plan};

/// Is told of each fault as it strikes.
pub type OnFault = Arc<dyn Fn(&Injected) + Send + Sync>;

/// Shared by all connections.
pub(crate) struct Faults {
    /// So that a mock without chaos pays one load.
    on: AtomicBool,
    plan: RwLock<Option<Arc<Plan>>>,
    counts: Mutex<BTreeMap<String, u64>>,
    told: Option<OnFault>,
}

impl Faults {
    pub(crate) fn new(told: Option<OnFault>) -> Self {
        Self {
            on: AtomicBool::new(false),
            plan: RwLock::default(),
            counts: Mutex::default(),
            told,
        }
    }

    /// Another plan from now on.
    pub(crate) fn switch(&self, plan: Option<Plan>) {
        let on = plan.is_some();
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) = plan.map(Arc::new);
        self.on.store(on, Ordering::SeqCst);
    }

    /// What happens to the `nth` answer of an exchange.
    pub(crate) fn strike(&self, exchange: u32, nth: u64) -> Option<Effect> {
        let plan = self.plan()?;
        plan.strike(exchange, nth, Instant::now(), |injected| {
            self.note(&injected)
        })
    }

    /// What happens to the next connection.
    pub(crate) fn connect(&self) -> ConnectionFaults {
        let Some(plan) = self.plan() else {
            return ConnectionFaults::default();
        };
        plan.connect(Instant::now(), |injected| self.note(&injected))
    }

    /// The rules that are on: their names, and what they do.
    pub(crate) fn rules(&self) -> Vec<(String, String)> {
        self.plan().map_or_else(Vec::new, |plan| plan.rules())
    }

    /// Forgets what struck.
    pub(crate) fn reset(&self) {
        self.counted().clear();
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        self.counted().clone()
    }

    fn plan(&self) -> Option<Arc<Plan>> {
        if !self.on.load(Ordering::Relaxed) {
            return None;
        }
        let plan = self.plan.read().unwrap_or_else(PoisonError::into_inner);
        plan.as_ref().map(Arc::clone)
    }

    fn note(&self, injected: &Injected) {
        // As many names as the plans have rules.
        *self.counted().entry(injected.rule.clone()).or_default() += 1;
        if let Some(told) = &self.told {
            told(injected);
        }
    }

    fn counted(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}
