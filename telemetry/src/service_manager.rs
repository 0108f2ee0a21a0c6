//! The word to the service manager: systemd's notifications (sd_notify(3)), for units of `Type=notify` with
//! `WatchdogSec=`. Without one (`NOTIFY_SOCKET` is not set) nothing is said.
//!
//! Owns: what is said and how often. Must not: judge whether a service is alive; its caller says so.

use std::time::Duration;

use sd_notify::NotifyState;

/// The manager that started this process, if any did.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServiceManager {
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// As the environment names it.
    pub fn from_env() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled() }
    }

    /// The service serves.
    pub fn ready(&self, status: &str) {
        say(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The service is being stopped in order, which may take its time.
    pub fn stopping(&self, status: &str) {
        say(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// How often [`alive`](Self::alive) is to be said: half of the time after which the manager ends a silent service;
    /// `None`: it does not.
    pub fn pulse(&self) -> Option<Duration> {
        self.watchdog.map(|time| time / 2)
    }

    /// The service is alive.
    pub fn alive(&self) {
        say(&[NotifyState::Watchdog]);
    }
}

/// Says that a service is alive for as long as the runtime runs its tasks. Where no watchdog asks it returns at once.
pub async fn keep_alive(manager: ServiceManager) {
    let Some(pulse) = manager.pulse() else { return };
    loop {
        manager.alive();
        tokio::time::sleep(pulse).await;
    }
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager does not listen");
    }
}
