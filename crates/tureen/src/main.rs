//! `tureen`: the shipped binary. Arguments become settings, settings become a running server; nothing else is here.

mod accept;
mod cert;
mod cli;
mod cluster;
mod config;
mod drain;
mod endpoints;
mod front;
mod load;
mod media_node;
mod metrics;
mod nodes;
mod page;
mod serve;
mod token_command;
mod worker_counters;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, ConfigCommand, Settings};
use crate::config::{Checked, Config};

/// The exit status for settings that are wrong, as for wrong arguments.
const WRONG_SETTINGS: u8 = 2;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(settings) => match read(&settings).and_then(Checked::new) {
            Ok(checked) => run(checked),
            Err(errors) => refuse(&errors),
        },
        Command::Config(ConfigCommand::Check(settings)) => match read(&settings).and_then(Checked::new) {
            Ok(_) => {
                eprintln!("the settings are fine");
                ExitCode::SUCCESS
            }
            Err(errors) => refuse(&errors),
        },
        Command::Config(ConfigCommand::Nginx(settings)) => ended(nodes::nginx(settings)),
        Command::Config(ConfigCommand::Keepalived(settings)) => say(&front::keepalived(&settings)),
        Command::Config(ConfigCommand::Print(settings)) => match read(&settings) {
            Ok(config) => print(&config),
            Err(errors) => refuse(&errors),
        },
        Command::Cert(command) => ended(cert::make(command)),
        Command::Nodes(command) => ended(nodes::run(command)),
        Command::Drain(arguments) => ended(drain::run(arguments)),
        Command::Token(arguments) => ended(token_command::make(arguments)),
    }
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn read(settings: &Settings) -> Result<Config, Vec<String>> {
    config::load(settings.config.as_deref(), &settings.given())
}

fn refuse(errors: &[String]) -> ExitCode {
    for error in errors {
        eprintln!("error: {error}");
    }
    ExitCode::from(WRONG_SETTINGS)
}

fn print(config: &Config) -> ExitCode {
    match config.to_toml() {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&[error.to_string()]),
    }
}

fn say(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}

fn run(checked: Checked) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("tureen").build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    ended(runtime.block_on(serve::serve(checked)))
}
