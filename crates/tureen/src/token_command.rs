//! `tureen token`: one join token, by hand.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use room::Role;
use token::Claims;

use crate::cli::TokenArguments;
use crate::config::secrets_of;

/// Prints the token.
pub(crate) fn make(arguments: TokenArguments) -> Result<()> {
    let TokenArguments { secret_file, room, peer, role, name, expires } = arguments;
    let secrets = secrets_of(&secret_file).map_err(anyhow::Error::msg)?;
    let secret = secrets.first().context("the file holds no secret")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let exp = now.saturating_add(expires).as_secs();
    let claims = Claims { room, peer, role: role.map(Role::new), exp, nbf: None, name };
    println!("{}", token::sign(&claims, secret)?);
    Ok(())
}
