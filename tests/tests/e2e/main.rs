//! End-to-end tests: a real server, real workers, real browsers, real bytes. One binary; each test gets the machine to
//! itself (see .config/nextest.toml).

mod browser;
mod cluster;
mod codecs;
mod compose;
mod crash_loop;
mod data;
mod deploy;
mod failover;
mod front;
mod load;
mod loss;
mod nodes;
mod other_worker;
mod partition;
mod plain;
mod regions;
mod resume;
mod serving;
mod shared_address;
mod stage;
mod web_rtc;
mod wide;
