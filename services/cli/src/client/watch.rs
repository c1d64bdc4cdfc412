//! Following a render, with a progress bar where somebody looks.

use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use likeness_wire::v1::{self, watch_render_response::Event};
use tonic::Code;

use crate::{connect::ClientArgs, fail::Failure, output::short};

/// Tries to take a broken watch up again.
const MOST_TRIES: u32 = 30;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// Follows a render to its last state. A watch that breaks is taken up again.
pub async fn follow(client: &ClientArgs, name: &str) -> Result<v1::Render, Failure> {
    let bar = bar();
    let mut tries = 0;
    let render = loop {
        match follow_once(client, name, &bar, &mut tries).await {
            Ok(Some(render)) => break render,
            Err(failure) if tries >= MOST_TRIES => return Err(failure),
            Ok(None) | Err(_) => {}
        }
        tries += 1;
        tokio::time::sleep(PAUSE).await;
    };
    bar.finish_and_clear();
    Ok(render)
}

async fn follow_once(
    client: &ClientArgs,
    name: &str,
    bar: &ProgressBar,
    tries: &mut u32,
) -> Result<Option<v1::Render>, Failure> {
    let request = v1::WatchRenderRequest {
        name: name.to_owned(),
        without_previews: true,
    };
    let mut events = match client.renders().await?.watch_render(request).await {
        Ok(events) => events.into_inner(),
        Err(status) => {
            // Only what may pass is worth another try.
            if status.code() != Code::Unavailable {
                *tries = MOST_TRIES;
            }
            return Err(status.into());
        }
    };
    *tries = 0;
    while let Some(message) = events.next().await {
        let Ok(message) = message else {
            return Ok(None);
        };
        match message.event {
            Some(Event::Render(render)) if is_over(&render) => return Ok(Some(render)),
            Some(Event::Render(render)) => bar.set_message(state(&render)),
            Some(Event::Progress(progress)) => advance(bar, &progress),
            Some(Event::Preview(_)) | None => {}
        }
    }
    Ok(None)
}

/// Hidden by itself where stderr is no terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg:10} {wide_bar} step {pos}/{len}") {
        bar.set_style(style);
    }
    bar
}

fn advance(bar: &ProgressBar, progress: &v1::RenderProgress) {
    let number = |count: i32| u64::try_from(count).unwrap_or(0);
    bar.set_length(number(progress.image_count) * number(progress.steps));
    bar.set_position(number(progress.image) * number(progress.steps) + number(progress.step));
}

fn is_over(render: &v1::Render) -> bool {
    matches!(
        render.state(),
        v1::RenderState::Succeeded
            | v1::RenderState::Failed
            | v1::RenderState::Cancelled
            | v1::RenderState::Expired
    )
}

/// A render's state for people.
pub fn state(render: &v1::Render) -> String {
    short(render.state().as_str_name(), "RENDER_STATE")
}
