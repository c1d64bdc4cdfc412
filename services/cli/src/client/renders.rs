//! Requests to make pictures.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use likeness_domain::render::{ImageFormat, Priority, Scheduler};
use likeness_wire::{json::to_json, render as wire, v1};

use super::{
    label, present,
    watch::{follow, state},
};
use crate::{
    args::Output,
    connect::ClientArgs,
    fail::Failure,
    output::{print, print_fields},
};

/// What to do with renders.
#[derive(Subcommand)]
pub enum RendersCommand {
    /// Ask for pictures.
    Create(Box<CreateArgs>),
    /// Show a render.
    Get {
        #[command(flatten)]
        client: ClientArgs,
        /// `tenants/…/renders/…`
        name: String,
    },
    /// List renders, newest first.
    List {
        #[command(flatten)]
        client: ClientArgs,
        /// Only those of this identity.
        #[arg(long, default_value = "", hide_default_value = true)]
        identity: String,
        /// At most this many.
        #[arg(long, default_value_t = 50)]
        limit: i32,
    },
    /// Follow a render to its end.
    Watch {
        #[command(flatten)]
        client: ClientArgs,
        /// `tenants/…/renders/…`
        name: String,
    },
    /// Cancel a render.
    Cancel {
        #[command(flatten)]
        client: ClientArgs,
        /// `tenants/…/renders/…`
        name: String,
    },
    /// Wait for a render and download its images.
    Download {
        #[command(flatten)]
        client: ClientArgs,
        /// `tenants/…/renders/…`
        name: String,
        /// Where to put them.
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
}

/// A new render.
#[derive(Args)]
pub struct CreateArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// What to draw.
    #[arg(long)]
    prompt: String,
    /// Who to show; several are blended.
    #[arg(long = "identity", value_name = "NAME[=WEIGHT]", value_parser = weighted)]
    identities: Vec<v1::WeightedIdentity>,
    /// What to keep out.
    #[arg(long)]
    negative_prompt: Option<String>,
    /// A model by name.
    #[arg(long, default_value = "", hide_default_value = true)]
    model: String,
    /// Weight of the ID-LoRA, 0 to 2.
    #[arg(long)]
    id_scale: Option<f32>,
    /// Weight of the Base-LoRA, 0 to 2, where the model's bundle has one.
    #[arg(long)]
    base_scale: Option<f32>,
    /// What to move along, and how far: −2 to 2, usually −1 to 1.
    #[arg(long = "slider", value_name = "NAME=SCALE", value_parser = scaled)]
    sliders: Vec<v1::ScaledSlider>,
    /// Image i is drawn from seed + i.
    #[arg(long)]
    seed: Option<i64>,
    /// Denoising steps.
    #[arg(long)]
    steps: Option<i32>,
    /// Classifier-free guidance.
    #[arg(long)]
    guidance: Option<f32>,
    /// How to sample: ddim, euler, euler_karras, euler_ancestral, dpmpp_2m, dpmpp_2m_karras or lcm.
    #[arg(long)]
    scheduler: Option<Scheduler>,
    /// Pixels.
    #[arg(long)]
    width: Option<i32>,
    /// Pixels.
    #[arg(long)]
    height: Option<i32>,
    /// How many images.
    #[arg(long)]
    images: Option<i32>,
    /// Make so many candidates for each image, and keep the one most like the identity.
    #[arg(long, value_name = "N")]
    best_of: Option<i32>,
    /// png, jpeg or webp.
    #[arg(long)]
    format: Option<ImageFormat>,
    /// Start from this picture: JPEG, PNG or WebP. It is scaled to cover the size and cropped around its centre.
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// How much of the picture to start from may change, above 0 and up to 1.
    #[arg(long, value_name = "S", default_value_t = 0.7, requires = "init")]
    strength: f32,
    /// Paint small faces once more at the model's own resolution, changing so much of them: above 0 and up to 1.
    #[arg(long, value_name = "S")]
    face_detail: Option<f32>,
    /// INTERACTIVE, NORMAL or BULK.
    #[arg(long)]
    priority: Option<Priority>,
    /// Your own labels.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Repeating a request with the same id returns the first one's render.
    #[arg(long, default_value = "", hide_default_value = true)]
    request_id: String,
    /// Check everything, store nothing.
    #[arg(long)]
    validate_only: bool,
    /// Follow the render to its end.
    #[arg(long)]
    wait: bool,
}

/// Runs a command.
pub async fn renders(command: RendersCommand, output: Output) -> Result<(), Failure> {
    match command {
        RendersCommand::Create(args) => create(*args, output).await,
        RendersCommand::Get { client, name } => {
            let request = v1::GetRenderRequest { name };
            let answer = client
                .renders()
                .await?
                .get_render(request)
                .await?
                .into_inner();
            show(&present(answer.render)?, output)
        }
        RendersCommand::List {
            client,
            identity,
            limit,
        } => {
            let request = v1::ListRendersRequest {
                identity,
                page_size: limit,
                ..Default::default()
            };
            let answer = client
                .renders()
                .await?
                .list_renders(request)
                .await?
                .into_inner();
            list(&answer.renders, output)
        }
        RendersCommand::Watch { client, name } => ended(&follow(&client, &name).await?, output),
        RendersCommand::Cancel { client, name } => {
            let request = v1::CancelRenderRequest { name };
            let answer = client
                .renders()
                .await?
                .cancel_render(request)
                .await?
                .into_inner();
            show(&present(answer.render)?, output)
        }
        RendersCommand::Download { client, name, dir } => {
            let render = follow(&client, &name).await?;
            if render.state() != v1::RenderState::Succeeded {
                return ended(&render, output);
            }
            download(&render, &dir, output).await
        }
    }
}

async fn create(args: CreateArgs, output: Output) -> Result<(), Failure> {
    let init_image = start_picture(&args)?;
    let render = v1::Render {
        model: args.model,
        identities: args.identities,
        id_scale: args.id_scale,
        base_scale: args.base_scale,
        sliders: args.sliders,
        prompt: args.prompt,
        negative_prompt: args.negative_prompt,
        seed: args.seed,
        steps: args.steps,
        guidance: args.guidance,
        scheduler: args
            .scheduler
            .map_or(0, |scheduler| wire::scheduler(scheduler).into()),
        width: args.width,
        height: args.height,
        image_count: args.images,
        best_of: args.best_of,
        output_format: args
            .format
            .map_or(0, |format| wire::image_format(format).into()),
        priority: args
            .priority
            .map_or(0, |priority| wire::priority(priority).into()),
        labels: args.labels.into_iter().collect(),
        init_image,
        face_detail: args.face_detail.map(|strength| v1::FaceDetail { strength }),
        ..v1::Render::default()
    };
    let request = v1::CreateRenderRequest {
        render: Some(render),
        request_id: args.request_id,
        validate_only: args.validate_only,
        ..Default::default()
    };
    let answer = args
        .client
        .renders()
        .await?
        .create_render(request)
        .await?
        .into_inner();
    let render = present(answer.render)?;
    if args.wait && !args.validate_only {
        return ended(&follow(&args.client, &render.name).await?, output);
    }
    show(&render, output)
}

fn start_picture(args: &CreateArgs) -> Result<Option<v1::InitImage>, Failure> {
    let Some(path) = &args.init else {
        return Ok(None);
    };
    let image = fs::read(path)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
    Ok(Some(v1::InitImage {
        image: image.into(),
        strength: args.strength,
    }))
}

/// Shows a render that is over; one that did not succeed fails the command.
fn ended(render: &v1::Render, output: Output) -> Result<(), Failure> {
    show(render, output)?;
    if render.state() == v1::RenderState::Succeeded {
        return Ok(());
    }
    let why = render.error.as_ref().map_or_else(String::new, |error| {
        format!(": {} ({})", error.message, error.reason)
    });
    Err(Failure::new(format!(
        "the render is {}{why}",
        state(render)
    )))
}

fn list(renders: &[v1::Render], output: Output) -> Result<(), Failure> {
    let rows = renders.iter().map(|render| {
        vec![
            render.name.clone(),
            state(render),
            render.model.clone(),
            format!("{}×{}", render.width(), render.height()),
            render.image_count().to_string(),
            render
                .images
                .iter()
                .map(likeness)
                .collect::<Vec<_>>()
                .join(" "),
        ]
    });
    let json = renders.iter().map(to_json).collect();
    print(
        output,
        &["NAME", "STATE", "MODEL", "SIZE", "IMAGES", "LIKENESS"],
        rows.collect(),
        &json,
    )
}

fn show(render: &v1::Render, output: Output) -> Result<(), Failure> {
    let error = render.error.as_ref();
    let mut fields = vec![
        ("name", render.name.clone()),
        ("state", state(render)),
        ("model", render.model.clone()),
        ("size", format!("{}×{}", render.width(), render.height())),
        ("seed", render.seed().to_string()),
        ("steps", render.steps().to_string()),
        ("images", render.image_count().to_string()),
        (
            "error",
            error
                .map(|error| format!("{}: {}", error.reason, error.message))
                .unwrap_or_default(),
        ),
    ];
    for image in &render.images {
        fields.push(("image", image.url.clone()));
        fields.push(("likeness", likeness(image)));
    }
    print_fields(output, &fields, &to_json(render))
}

/// How like the person an image is, as a table shows it.
fn likeness(image: &v1::RenderedImage) -> String {
    image
        .likeness
        .map_or_else(|| "-".to_owned(), |likeness| format!("{likeness:.2}"))
}

async fn download(render: &v1::Render, dir: &Path, output: Output) -> Result<(), Failure> {
    fs::create_dir_all(dir)?;
    let id = render.name.rsplit('/').next().unwrap_or("render");
    let http = reqwest::Client::new();
    let mut paths = Vec::with_capacity(render.images.len());
    for (position, image) in render.images.iter().enumerate() {
        let extension = match image.content_type.as_str() {
            "image/jpeg" => "jpg",
            "image/webp" => "webp",
            _ => "png",
        };
        let path = dir.join(format!("{id}-{position}.{extension}"));
        fs::write(&path, fetch(&http, &image.url).await?)?;
        paths.push((path.display().to_string(), likeness(image)));
    }
    let json = paths
        .iter()
        .map(|(path, _)| serde_json::Value::from(path.clone()))
        .collect();
    print(
        output,
        &["FILE", "LIKENESS"],
        paths
            .into_iter()
            .map(|(path, likeness)| vec![path, likeness])
            .collect(),
        &json,
    )
}

async fn fetch(http: &reqwest::Client, url: &str) -> Result<bytes::Bytes, Failure> {
    let broken = |error: reqwest::Error| {
        Failure::new(format!(
            "the image cannot be downloaded: {}",
            error.without_url()
        ))
    };
    let answer = http.get(url).send().await.map_err(broken)?;
    answer
        .error_for_status()
        .map_err(broken)?
        .bytes()
        .await
        .map_err(broken)
}

fn weighted(text: &str) -> Result<v1::WeightedIdentity, String> {
    let (identity, weight) = match text.split_once('=') {
        None => (text, None),
        Some((identity, weight)) => {
            let weight = weight
                .parse()
                .map_err(|_| "expected NAME=WEIGHT, as NAME=0.5")?;
            (identity, Some(weight))
        }
    };
    Ok(v1::WeightedIdentity {
        identity: identity.to_owned(),
        weight,
    })
}

fn scaled(text: &str) -> Result<v1::ScaledSlider, String> {
    let expected = || "expected NAME=SCALE, as NAME=0.7".to_owned();
    let (slider, scale) = text.split_once('=').ok_or_else(expected)?;
    Ok(v1::ScaledSlider {
        slider: slider.to_owned(),
        scale: scale.parse().map_err(|_| expected())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slider_carries_its_scale() {
        assert!((scaled("s=-0.7").unwrap().scale + 0.7).abs() < 1e-6);
        assert_eq!(
            scaled("tenants/t/sliders/s=1").unwrap().slider,
            "tenants/t/sliders/s"
        );
        assert!(scaled("s").is_err() && scaled("s=far").is_err());
    }

    #[test]
    fn a_missing_likeness_is_not_a_bad_one() {
        let image = v1::RenderedImage::default();
        assert_eq!(likeness(&image), "-");
        let likeness_of = |likeness| v1::RenderedImage {
            likeness: Some(likeness),
            ..v1::RenderedImage::default()
        };
        assert_eq!(likeness(&likeness_of(0.456)), "0.46");
    }

    #[test]
    fn an_identity_may_carry_a_weight() {
        assert_eq!(weighted("tenants/t/identities/i").unwrap().weight, None);
        assert_eq!(weighted("i=0.25").unwrap().weight, Some(0.25));
        assert!(weighted("i=much").is_err());
    }
}
