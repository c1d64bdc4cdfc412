//! The demo's story, told with the commands that anybody can type.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use likeness_chart::Cell;
use serde_json::Value;

use super::Running;
use super::client::{Client, Rendered};
use super::orders::{self, Order, Who};
use super::people::{Cast, Person, SEEDS};
use super::sheet::{self, Row, Shown};
use super::stages::Stages;

/// Whom each row shows beside its own person.
const OTHERS: [usize; 3] = [1, 0, 0];

/// What was rendered, by what was asked for.
type Renders<'a> = BTreeMap<&'a [String], Rendered>;

/// Somebody who was enrolled, or refused.
struct Enrolled {
    identity: String,
    /// The first photo.
    photo: PathBuf,
    /// Of each photo.
    verdicts: Vec<String>,
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
    for (person, enrolled) in cast.shown.iter().zip(&shown) {
        for verdict in &enrolled.verdicts {
            say(person.name, verdict);
        }
    }
    let ours = cast.shown.iter().zip(&shown).take(2);
    for (person, enrolled) in ours.chain(cast.slider.iter().zip(&ends)) {
        good(person, enrolled)?;
    }
    let slider = client.slider(&ends[0].identity, &ends[1].identity)?;
    stages.done("enrolment until READY");

    let orders = orders(&cast, &shown, &slider);
    let asked: BTreeSet<&[String]> = orders.iter().flatten().map(|o| o.args.as_slice()).collect();
    let asked: Vec<&[String]> = asked.into_iter().collect();
    say("renders", &asked.len().to_string());
    let rendered = side_by_side(&asked, |args| client.render(args, &pictures))?;
    let rendered: Renders<'_> = asked.into_iter().zip(rendered).collect();
    stages.done("renders and downloads");

    let rows = rows(&cast, &shown, &orders, &rendered)?;
    let sheet = running.dir.join("sheet.png");
    sheet::draw(&rows)
        .save(&sheet)
        .with_context(|| format!("cannot write {}", sheet.display()))?;
    stages.done("sheet");
    say("pictures", &pictures.display().to_string());
    say("sheet", &sheet.display().to_string());
    end(running, stages, &rendered);
    Ok(())
}

fn enrol(client: &Client, person: &Person) -> Result<Enrolled> {
    let (identity, photos) = client.enrol(person.name, &person.photos)?;
    let accepted = photos
        .iter()
        .any(|photo| photo["state"] == "PHOTO_STATE_ACCEPTED");
    let refused = photos.first().map(|photo| reason(photo).to_owned());
    Ok(Enrolled {
        identity,
        photo: person.photos.first().context("no photo")?.clone(),
        verdicts: photos.iter().map(verdict).collect(),
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

/// Every row's pictures; a person who was refused has none.
fn orders(cast: &Cast, shown: &[Enrolled], slider: &str) -> Vec<Vec<Order>> {
    let who = |at: usize| Who {
        label: cast.shown[at].name,
        identity: &shown[at].identity,
    };
    let rows = shown.iter().zip(OTHERS).zip(SEEDS).enumerate();
    rows.map(|(at, ((own, other), seed))| match own.refused {
        Some(_) => Vec::new(),
        None => orders::row(who(at), who(other), slider, &cast.shown[at].prompt, seed),
    })
    .collect()
}

fn rows(
    cast: &Cast,
    enrolled: &[Enrolled],
    orders: &[Vec<Order>],
    rendered: &Renders<'_>,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for ((person, enrolled), orders) in cast.shown.iter().zip(enrolled).zip(orders) {
        let verdict = enrolled.refused.as_deref().unwrap_or("accepted");
        let mut shown = vec![Shown {
            group: "enrolled".to_owned(),
            label: person.name.to_owned(),
            cell: cell(&enrolled.photo, verdict.to_owned())?,
        }];
        for order in orders {
            let one = rendered.get(order.args.as_slice()).context("no render")?;
            shown.push(Shown {
                group: order.group.clone(),
                label: order.label.clone(),
                cell: cell(&one.file, sheet::likeness(one.likeness))?,
            });
        }
        rows.push(Row {
            title: format!("prompt: {}", person.prompt),
            shown,
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
    let reason = photo["rejection"]["reason"].as_str().unwrap_or("refused");
    reason.trim_start_matches("PHOTO_REJECTION_REASON_")
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
                quality["face_size"].as_f64().unwrap_or_default(),
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
fn end(running: &Running, stages: &Stages, rendered: &Renders<'_>) {
    println!("\ntimings");
    for line in stages.lines() {
        println!("{line}");
    }
    println!("\nof a render, in the mean");
    for (stage, seconds) in means(rendered) {
        println!("  {stage:28} {seconds:7.3} s");
    }
    println!(
        "\nThe project's own pocket bundle knows drawn people, whom the sheet shows; its pictures of a photo are no likeness.\n\
         To go on: `{} dev` keeps everything running and prints what to export.",
        running.likeness.display()
    );
}

/// Seconds of each stage of a render, as the services tell them, in the mean of all.
fn means(rendered: &Renders<'_>) -> BTreeMap<String, f64> {
    let mut means = BTreeMap::new();
    for one in rendered.values() {
        for (stage, time) in one.render["timings"].as_object().into_iter().flatten() {
            let seconds = time.as_str().and_then(|time| time.strip_suffix('s'));
            let seconds: f64 = seconds.and_then(|s| s.parse().ok()).unwrap_or_default();
            *means.entry(stage.clone()).or_default() += seconds / rendered.len() as f64;
        }
    }
    means
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
    fn times_are_means_over_all_renders() {
        let one = |sampling: &str| Rendered {
            file: PathBuf::new(),
            likeness: None,
            render: serde_json::json!({"timings": {"sampling": sampling, "merge": "0s"}}),
        };
        let [a, b] = [["a".to_owned()], ["b".to_owned()]];
        let rendered: Renders<'_> = [(&a[..], one("0.5s")), (&b[..], one("1.500s"))].into();
        let expected = [("merge".to_owned(), 0.0), ("sampling".to_owned(), 1.0)];
        assert_eq!(means(&rendered), expected.into());
        assert!(means(&Renders::new()).is_empty());
    }

    #[test]
    fn a_refused_photo_says_why() {
        let refused = serde_json::json!({
            "state": "PHOTO_STATE_REJECTED", "rejection": {"reason": "PHOTO_REJECTION_REASON_NO_FACE", "message": "no face"},
        });
        assert_eq!(verdict(&refused), "REJECTED: no face");
        assert_eq!(reason(&refused), "NO_FACE");
    }
}
