//! What the documents tell an operator to write and to type, so that tests do the same.

use std::fs;

use crate::settings::workspace;

/// The commands behind `<!-- run: name -->`.
pub fn command(document: &str, name: &str) -> String {
    block(document, &format!("<!-- run: {name} -->"))
}

/// The content of the file behind `<!-- file: path -->`.
pub fn file(document: &str, path: &str) -> String {
    block(document, &format!("<!-- file: {path} -->"))
}

fn block(document: &str, mark: &str) -> String {
    let text = fs::read_to_string(workspace().join("docs").join(document)).unwrap();
    let block =
        text.split_once(&format!("{mark}\n```")).and_then(|(_, rest)| rest.split_once("\n```")?.0.split_once('\n'));
    let (_language, content) = block.unwrap_or_else(|| panic!("{document} has no {mark}"));
    format!("{content}\n")
}
