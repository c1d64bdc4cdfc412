//! Bundles from the Hugging Face hub.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
};

use clap::Args;
use likeness_bundle::{
    Bundle,
    pull::{self, HUB, Licence, PullOptions, Recipe},
};

use super::bar;
use crate::{
    args::Output,
    fail::{Failure, failed},
    output::{note, print_fields},
};

/// Which bundle to pull, and from where.
#[derive(Args)]
pub struct PullArgs {
    /// The bundle's name; a wrong one is answered with those that there are.
    name: String,
    /// A new or empty folder; by default the name.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The hub, or a mirror of it.
    #[arg(long, env = "HF_ENDPOINT", default_value = HUB, value_name = "URL")]
    endpoint: String,
    /// An access token of the hub, for what is not public.
    #[arg(long, env = "HF_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// Accept the licences of everything in the bundle.
    #[arg(long)]
    accept_licence: bool,
}

/// Downloads a bundle, once its licences are accepted.
pub fn pull(args: &PullArgs, output: Output) -> Result<(), Failure> {
    let recipe = Recipe::find(&args.name).ok_or_else(|| unknown(&args.name))?;
    if !args.accept_licence {
        ask(recipe)?;
    }
    let dir = args.dir.clone().unwrap_or_else(|| recipe.name.into());
    let options = PullOptions {
        endpoint: args.endpoint.clone(),
        token: args.token.clone().filter(|token| !token.is_empty()),
    };
    let bar = bar("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let pulled = pull::pull(recipe, &dir, &options, |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        bar.set_message(progress.path.to_owned());
    })
    .map_err(failed)?;
    bar.finish_and_clear();
    let digest = Bundle::open(&dir).map_err(failed)?.digest();
    let fields = [
        ("bundle", dir.display().to_string()),
        ("files", pulled.files.to_string()),
        ("bytes", pulled.bytes.to_string()),
        ("digest", digest.clone()),
    ];
    let json = serde_json::json!({
        "dir": dir, "files": pulled.files, "bytes": pulled.bytes, "digest": digest,
    });
    print_fields(output, &fields, &json)
}

fn unknown(name: &str) -> Failure {
    let all = Recipe::all().iter();
    let all: Vec<String> = all
        .map(|recipe| format!("{} ({})", recipe.name, recipe.about))
        .collect();
    Failure::usage(format!(
        "there is no bundle {name}; there are: {}",
        all.join("; ")
    ))
}

/// Shows the licences, and asks where somebody can answer.
fn ask(recipe: &Recipe) -> Result<(), Failure> {
    note(&format!("{}: {}", recipe.name, recipe.about));
    for licence in recipe.licences() {
        note(&describe(licence));
    }
    let refused = || {
        Failure::new(
            "nothing was downloaded: the licences are not accepted; read them and repeat the command with --accept-licence",
        )
    };
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(refused());
    }
    write!(io::stderr(), "Do you accept these licences? [yes/no] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(refused()),
    }
}

fn describe(licence: &Licence) -> String {
    let commerce = if licence.non_commercial {
        ", no commercial use"
    } else {
        ""
    };
    format!(
        "{}: {}{commerce}, {}",
        licence.what, licence.name, licence.url
    )
}
