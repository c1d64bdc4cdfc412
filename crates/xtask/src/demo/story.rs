//! The demo's story, told with the commands that anybody can type.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use likeness_chart::Cell;
use serde_json::Value;

use super::Running;
use super::client::{Client, Rendered};
use super::orders::{self, Order, Who};
use super::people::{Cast, Person};
use super::sheet::{self, Row};
use super::stages::Stages;

/// Somebody who was enrolled, or refused.
struct Enrolled {
    identity: String,
    /// The first photo.
    photo: PathBuf,
    /// Why no photo was good enough, if none was.
    refused: Option<String>,
}

/// From portraits and photos to the sheet.
pub fn tell(running: &Running, photos: Vec<PathBuf>, stages: &mut Stages) -> Result<()> {
    let pictures = running.dir.join("pictures");
    let _ = fs::remove_dir_all(&pictures);
    fs::create_dir_all(&pictures)?;
    let cast = Cast::draw(&pictures, photos)?;
    let client = Client::connect(running)?;
    stages.done("portraits, tenant, key");

    let shown = side_by_side(&cast.shown, |person| enrol(&client, person))?;
    let ends = side_by_side(&cast.slider, |person| enrol(&client, person))?;
    for (person, enrolled) in cast.shown.iter().zip(&shown).take(2) {
        good(person, enrolled)?;
    }
    let slider = client.slider(&ends[0].identity, &ends[1].identity)?;
    stages.done("enrolment until READY");

    let orders = orders(&cast, &shown, &slider);
    say("renders", &orders.iter().flatten().count().to_string());
    let flat: Vec<&Order> = orders.iter().flatten().collect();
    let rendered = side_by_side(&flat, |order| client.render(&order.args, &pictures))?;
    stages.done("renders and downloads");

    let rows = rows(&cast, &shown, &orders, &rendered)?;
    let sheet = running.dir.join("sheet.png");
    sheet::draw(&rows)
        .save(&sheet)
        .with_context(|| format!("cannot write {}", sheet.display()))?;
    stages.done("sheet");
    say("pictures", &pictures.display().to_string());
    say("sheet", &sheet.display().to_string());
    end(running, stages, rendered.first());
    Ok(())
}

fn enrol(client: &Client, person: &Person) -> Result<Enrolled> {
    let (identity, photos) = client.enrol(person.name, &person.photos)?;
    for photo in &photos {
        say(person.name, &verdict(photo));
    }
    let accepted = photos
        .iter()
        .any(|photo| photo["state"] == "PHOTO_STATE_ACCEPTED");
    let refused = photos.first().map(|photo| reason(photo).to_owned());
    Ok(Enrolled {
        identity,
        photo: person.photos.first().context("no photo")?.clone(),
        refused: refused.filter(|_| !accepted),
    })
}

/// Our own portraits are accepted, or something is broken.
fn good(person: &Person, enrolled: &Enrolled) -> Result<()> {
    match &enrolled.refused {
        None => Ok(()),
        Some(reason) => bail!("the portrait {} was refused: {reason}", person.name),
    }
}

/// Every row's renders; a person who was refused has none. The last but the first goes with the first.
fn orders(cast: &Cast, shown: &[Enrolled], slider: &str) -> Vec<Vec<Order>> {
    let who = |at: usize| Who {
        label: cast.shown[at].name,
        identity: &shown[at].identity,
    };
    let others = [1, 0, 0];
    let rows = shown.iter().zip(others).enumerate();
    rows.map(|(at, (enrolled, other))| match enrolled.refused {
        Some(_) => Vec::new(),
        None => orders::row(who(at), who(other), slider, &cast.shown[at].prompt, at + 1),
    })
    .collect()
}

fn rows(
    cast: &Cast,
    shown: &[Enrolled],
    orders: &[Vec<Order>],
    rendered: &[Rendered],
) -> Result<Vec<Row>> {
    let mut rendered = rendered.iter();
    let mut rows = Vec::new();
    for ((person, enrolled), orders) in cast.shown.iter().zip(shown).zip(orders) {
        let caption = enrolled.refused.clone();
        let caption = caption.unwrap_or_else(|| "accepted".to_owned());
        let first = format!("enrolled: {}", person.name);
        let mut cells = vec![(first, cell(&enrolled.photo, caption)?)];
        for (order, one) in orders.iter().zip(rendered.by_ref()) {
            let cell = cell(&one.file, sheet::likeness(one.likeness))?;
            cells.push((order.label.clone(), cell));
        }
        rows.push(Row {
            title: format!("\"{}\"", person.prompt),
            cells,
        });
    }
    Ok(rows)
}

fn cell(file: &Path, caption: String) -> Result<Cell> {
    Ok(Cell {
        picture: sheet::tile(&sheet::picture(file)?),
        caption,
    })
}

/// All at once, each on a thread of its own; the queue brings them into order.
fn side_by_side<T, R>(all: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>>
where
    T: Sync,
    R: Send,
{
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = all
            .iter()
            .map(|one| scope.spawn(move || work(one)))
            .collect();
        threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread of the demo panicked"),
            })
            .collect()
    })
}

fn reason(photo: &Value) -> &str {
    photo["rejection"]["reason"].as_str().unwrap_or("refused")
}

fn verdict(photo: &Value) -> String {
    let rejection = &photo["rejection"]["message"];
    let state = photo["state"]
        .as_str()
        .unwrap_or_default()
        .trim_start_matches("PHOTO_STATE_");
    match rejection.as_str() {
        Some(message) => format!("{state}: {message}"),
        None => {
            let quality = &photo["quality"];
            format!(
                "{state}, face of {} pixels, sharpness {:.2}",
                quality["face_size"],
                quality["sharpness"].as_f64().unwrap_or_default()
            )
        }
    }
}

#[allow(clippy::print_stdout, reason = "the demo's own output")]
fn say(what: &str, text: &str) {
    println!("{what:10} {text}");
}

#[allow(clippy::print_stdout, reason = "the demo's own output")]
fn end(running: &Running, stages: &Stages, rendered: Option<&Rendered>) {
    println!("\ntimings");
    for line in stages.lines() {
        println!("{line}");
    }
    println!("\nof the first render, in the worker");
    let timings = rendered.and_then(|one| one.render["timings"].as_object());
    for (stage, time) in timings.into_iter().flatten() {
        println!("  {stage:28} {:>9}", time.as_str().unwrap_or_default());
    }
    println!(
        "\nThe pocket bundle knows drawn people, whom the sheet shows; its pictures of a photo are no likeness.\n\
         To go on: `{} dev` keeps everything running and prints what to export.",
        running.likeness.display()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_side_by_side_stays_in_order_and_one_failure_is_told() {
        let slow = |n: &u64| {
            thread::sleep(std::time::Duration::from_millis(20 - n));
            Ok(n * 2)
        };
        assert_eq!(side_by_side(&[1, 2, 3], slow).unwrap(), [2, 4, 6]);
        let failing = |n: &u64| if *n == 2 { bail!("two") } else { Ok(()) };
        let error = side_by_side(&[1, 2, 3], failing).unwrap_err();
        assert_eq!(error.to_string(), "two");
    }

    #[test]
    fn a_refused_photo_says_why() {
        let refused = serde_json::json!({
            "state": "PHOTO_STATE_REJECTED", "rejection": {"reason": "NO_FACE", "message": "no face"},
        });
        assert_eq!(verdict(&refused), "REJECTED: no face");
        assert_eq!(reason(&refused), "NO_FACE");
    }
}
