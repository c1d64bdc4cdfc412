//! A generated Python client: the example of the documentation, run against the real services.

use std::process::Command;

use anyhow::{Result, ensure};
use likeness_test_support::{env, fixture};

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_works() -> Result<()> {
    let Some(python) = env::python() else {
        println!("skipped: `cargo xtask test` makes a Python for it where python3 is there");
        return Ok(());
    };
    let stage = Stage::start().await?;
    let app = stage.tenant("python app").await?;
    tokio::task::block_in_place(|| {
        let folder = tempfile::tempdir()?;
        let example = fixture("../../docs/examples/client.py");
        let output = Command::new(python)
            .arg(example)
            .arg(fixture("astronaut.png"))
            .arg(folder.path())
            .env("LIKENESS_ENDPOINT", &stage.endpoint)
            .env("LIKENESS_API_KEY", &app.key)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{said}");
        let picture = std::fs::read_dir(folder.path())?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "png"))
            .expect("the example downloads a picture");
        assert_eq!(image::open(picture)?.width(), 256);
        Ok(())
    })
}
