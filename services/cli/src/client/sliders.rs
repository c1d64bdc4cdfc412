//! Directions between two people or photos.

use clap::Subcommand;
use likeness_wire::{json::to_json, v1};

use super::present;
use crate::{
    args::Output,
    connect::ClientArgs,
    fail::Failure,
    output::{print, print_fields},
};

/// What to do with sliders.
#[derive(Subcommand)]
pub enum SlidersCommand {
    /// Create a slider from two photos or two identities; it goes with any photo that it is made from.
    Create {
        #[command(flatten)]
        client: ClientArgs,
        /// Where it starts: `tenants/…/identities/…` or `tenants/…/identities/…/photos/…`
        #[arg(long, value_name = "NAME")]
        before: String,
        /// Where it leads.
        #[arg(long, value_name = "NAME")]
        after: String,
        /// A name for people to read.
        #[arg(default_value = "", hide_default_value = true)]
        display_name: String,
        /// Repeating a request with the same id returns the first one's slider.
        #[arg(long, default_value = "", hide_default_value = true)]
        request_id: String,
    },
    /// Show a slider.
    Get {
        #[command(flatten)]
        client: ClientArgs,
        /// `tenants/…/sliders/…`
        name: String,
    },
    /// List sliders, oldest first.
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Delete a slider.
    Delete {
        #[command(flatten)]
        client: ClientArgs,
        /// `tenants/…/sliders/…`
        name: String,
    },
}

/// Runs a command.
pub async fn sliders(command: SlidersCommand, output: Output) -> Result<(), Failure> {
    match command {
        SlidersCommand::Create {
            client,
            before,
            after,
            display_name,
            request_id,
        } => {
            let slider = v1::Slider {
                display_name,
                before,
                after,
                ..v1::Slider::default()
            };
            let request = v1::CreateSliderRequest {
                slider: Some(slider),
                request_id,
                ..Default::default()
            };
            let answer = client.sliders().await?.create_slider(request).await?;
            show(&present(answer.into_inner().slider)?, output)
        }
        SlidersCommand::Get { client, name } => {
            let request = v1::GetSliderRequest { name };
            let answer = client.sliders().await?.get_slider(request).await?;
            show(&present(answer.into_inner().slider)?, output)
        }
        SlidersCommand::List { client } => list(&client, output).await,
        SlidersCommand::Delete { client, name } => {
            let request = v1::DeleteSliderRequest { name };
            client.sliders().await?.delete_slider(request).await?;
            Ok(())
        }
    }
}

async fn list(client: &ClientArgs, output: Output) -> Result<(), Failure> {
    let mut client = client.sliders().await?;
    let mut request = v1::ListSlidersRequest::default();
    let mut sliders = Vec::new();
    loop {
        let page = client.list_sliders(request.clone()).await?.into_inner();
        sliders.extend(page.sliders);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let rows = sliders.iter().map(|slider| {
        vec![
            slider.name.clone(),
            slider.display_name.clone(),
            slider.before.clone(),
            slider.after.clone(),
        ]
    });
    let json = sliders.iter().map(to_json).collect();
    let header = ["NAME", "DISPLAY NAME", "BEFORE", "AFTER"];
    print(output, &header, rows.collect(), &json)
}

fn show(slider: &v1::Slider, output: Output) -> Result<(), Failure> {
    let fields = [
        ("name", slider.name.clone()),
        ("display name", slider.display_name.clone()),
        ("before", slider.before.clone()),
        ("after", slider.after.clone()),
    ];
    print_fields(output, &fields, &to_json(slider))
}
