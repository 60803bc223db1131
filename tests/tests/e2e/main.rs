//! End-to-end tests: a real server, real workers, real browsers, real bytes. One binary; each test gets the machine to
//! itself (see .config/nextest.toml).

mod adopt;
mod browser;
mod cluster;
mod codecs;
mod compose;
mod crash_loop;
mod data;
mod deploy;
mod drain_command;
mod drained_edge;
mod edges;
mod failover;
mod fan_out;
mod front;
mod full;
mod handover;
mod load;
mod loss;
mod moving;
mod nodes;
mod other_worker;
mod partition;
mod plain;
mod regions;
mod resume;
mod serving;
mod shared_address;
mod stage;
mod upgrade;
mod web_rtc;
mod wide;
