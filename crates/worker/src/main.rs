//! `tureen-worker`: a media worker process, started by a driver that holds the other ends of descriptors 3 and 4.

use std::process;

fn main() {
    // A worker that panics must die at once, so that its driver replaces it: it never limps on.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        process::abort();
    }));
    let exit = worker::run(std::env::args_os().skip(1));
    if let Some(message) = &exit.message {
        eprintln!("tureen-worker: {message}");
    }
    process::exit(exit.code);
}
