//! What the README tells people to write, as it stands there; the port alone is another.

use std::path::Path;

use serde_json::json;
use tokio::process::Command;

use super::driver::{self, Driver, Sdk};
use super::{BATCHING, NODE, PYTHON, Scene, ended};

/// The first block in a language below "Point your SDK here".
fn block(language: &str) -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let (_, section) = readme.split_once("### Point your SDK here").unwrap();
    let (_, rest) = section.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// Runs a block where its packages are; `None`: the SDK is not there.
fn run(sdk: Sdk, text: &str) -> Option<Driver> {
    let mut command = Command::new(sdk.program()?);
    let tools = driver::tools();
    match sdk {
        Sdk::Node => {
            let script = tools.join("readme.mjs");
            std::fs::write(&script, text).unwrap();
            command.arg(script);
        }
        Sdk::Python { .. } => {
            command.arg("-c").arg(text);
        }
        Sdk::Browser(_) => {
            std::fs::write(tools.join("readme.html"), text).unwrap();
            command.arg(driver::page_script("shop.mjs")).arg(&tools);
            command.arg("readme.html");
            command.envs(driver::chromium().map(|place| ("CHROMIUM", place)));
        }
    }
    Some(Driver::of(command))
}

#[tokio::test]
async fn the_readmes_lines_make_a_row_each() {
    for (sdk, language) in [(NODE, "js"), (PYTHON, "python"), (BATCHING, "html")] {
        let scene = Scene::set(&[]).await;
        let text = block(language);
        let here = text.replace("localhost:8000", &scene.front.addr.to_string());
        assert_ne!(text, here, "{language}");
        let Some(driver) = run(sdk, &here) else {
            continue;
        };
        let (left, _) = ended(vec![(scene, 1)], driver).await;
        let row = &left[0].rows[0];
        assert_eq!(row["event"], "Order Placed", "{language}");
        assert_eq!(row["user_id"], "ada", "{language}");
        assert_eq!(row["properties"], json!({"total": 12.5}), "{language}");
    }
}
