//! A MariaDB primary and its replica, which takes its place: behind one address, as behind a proxy of operations.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::folder::Folder;
use crate::forwarder::Forwarder;
use crate::mariadb::{MariaDb, READY};
use crate::server::said_by;
use crate::wait;

/// How long the replica may take to have applied what it has received.
const CATCH_UP: Duration = Duration::from_secs(20);

/// Who fetches the primary's log.
const REPLICATOR: &str = "replicator";

/// Two running servers. A commit is answered when the replica has it (semi-synchronous), or after 2 s without one.
#[derive(Debug)]
pub struct MariaDbPair {
    front: Forwarder,
    primary: MariaDb,
    replica: MariaDb,
}

impl MariaDbPair {
    #[track_caller]
    pub(crate) fn start() -> Self {
        let made = Self::launch();
        let own = made.unwrap_or_else(|error| panic!("mariadb: {error:#}"));
        own.primary.await_answer();
        own.replica.await_answer();
        own.primary.sql(&format!(
            "create user '{REPLICATOR}'@'%'; grant replication slave on *.* to '{REPLICATOR}'@'%'"
        ));
        own.replica.sql(&format!(
            "change master to master_host='127.0.0.1', master_port={}, master_user='{REPLICATOR}', \
             master_connect_retry=1, master_use_gtid=slave_pos;\n\
             set global rpl_semi_sync_slave_enabled = 1;\nset global read_only = 1;\nstart slave;",
            own.primary.port()
        ));
        own.await_replica();
        own.primary.sql("set global rpl_semi_sync_master_timeout = 2000");
        own.primary.sql("set global rpl_semi_sync_master_enabled = 1");
        let in_step =
            || own.primary.sql("show status like 'Rpl_semi_sync_master_clients'").trim().ends_with('1');
        assert!(wait::until_so(READY, in_step), "the replica is not semi-synchronous\n{}", own.said());
        // Replicated, as everything that follows.
        own.primary.make_user();
        own
    }

    fn launch() -> Result<Self> {
        let folder = Arc::new(Folder::make()?);
        let primary = MariaDb::launch(&folder, 1, None)?;
        let replica = MariaDb::launch(&folder, 2, None)?;
        let front = Forwarder::start(&primary.address());
        Ok(Self { front, primary, replica })
    }

    /// Where the primary is, whichever it is: `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.front.address()
    }

    /// The port of that.
    pub fn port(&self) -> u16 {
        self.front.port()
    }

    /// Who logs in.
    pub fn user(&self) -> &'static str {
        self.primary.user()
    }

    /// With which password.
    pub fn password(&self) -> &'static str {
        self.primary.password()
    }

    /// What lies before the primary: it can be cut.
    pub fn front(&self) -> &Forwarder {
        &self.front
    }

    /// The server that was the primary at the start, or that was promoted.
    pub fn primary(&mut self) -> &mut MariaDb {
        &mut self.primary
    }

    /// The other one.
    pub fn replica(&mut self) -> &mut MariaDb {
        &mut self.replica
    }

    /// Makes an empty database at the primary; gives its name.
    #[track_caller]
    pub fn fresh_database(&self) -> String {
        self.primary.fresh_database()
    }

    /// Runs statements as root at the primary; gives the rows, a line each, with tabs between the columns.
    #[track_caller]
    pub fn sql(&self, text: &str) -> String {
        self.primary.sql(text)
    }

    /// The replica applies what it has received, becomes the primary, and is found at the address; connections to
    /// the old one, which is ended as `kill -9` does, are reset.
    #[track_caller]
    pub fn promote(&mut self) {
        self.primary.kill();
        let all_applied = wait::until_so(CATCH_UP, || {
            let received = self.replica.long_field("show slave status", "Gtid_IO_Pos");
            let applied = self.replica.try_sql("select @@gtid_slave_pos");
            matches!((received, applied), (Some(received), Ok(applied)) if received == applied.trim())
        });
        assert!(all_applied, "the replica does not apply what it has\n{}", self.said());
        self.replica.sql("stop slave; reset slave all; set global read_only = 0");
        std::mem::swap(&mut self.primary, &mut self.replica);
        self.front.retarget(&self.primary.address());
    }

    #[track_caller]
    fn await_replica(&self) {
        let follows =
            |thread: &str| self.replica.long_field("show slave status", thread).as_deref() == Some("Yes");
        let following = || follows("Slave_IO_Running") && follows("Slave_SQL_Running");
        assert!(wait::until_so(READY, following), "the replica does not follow\n{}", self.said());
    }

    fn said(&self) -> String {
        said_by([self.primary.server(), self.replica.server()])
    }
}
