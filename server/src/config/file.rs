//! The configuration file: TOML, flattened to dotted names, each with its line.

use super::{ConfigError, Given, Source};
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Larger than any configuration: who names a log or a device here is told so.
const MAX_FILE_BYTES: usize = 1 << 20;

pub(super) fn read(path: &Path) -> Result<Vec<Given>, ConfigError> {
    let error = |what: String| ConfigError(format!("{}: {what}", path.display()));
    let text = read_text(path).map_err(|e| error(e.to_string()))?;
    if text.len() > MAX_FILE_BYTES {
        return Err(error(format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    let line = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    let table = DeTable::parse(&text).map_err(|e| {
        let at = e.span().map_or(1, |span| line(span.start));
        ConfigError(format!("{}:{at}: {}", path.display(), e.message()))
    })?;
    let mut given = Vec::new();
    flatten("", table.get_ref(), &mut |key, span_start, value| {
        let at = line(span_start);
        let value =
            value.map_err(|what| ConfigError(format!("{}:{at}: {key}: {what}", path.display())))?;
        given.push(Given {
            key,
            value,
            source: Source::File(path.to_owned(), at),
        });
        Ok(())
    })?;
    // In the file's order, so that the first mistake is the one that is told.
    given.sort_by_key(|given| match given.source {
        Source::File(_, line) => line,
        _ => 0,
    });
    Ok(given)
}

#[allow(
    clippy::disallowed_methods,
    reason = "read once, before the runtime starts"
)]
fn read_text(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path)
}

type Leaf<'a> = dyn FnMut(String, usize, Result<String, String>) -> Result<(), ConfigError> + 'a;

fn flatten(prefix: &str, table: &DeTable<'_>, leaf: &mut Leaf<'_>) -> Result<(), ConfigError> {
    for (name, value) in table {
        let key = match prefix {
            "" => name.get_ref().to_string(),
            _ => format!("{prefix}.{}", name.get_ref()),
        };
        match value.get_ref() {
            DeValue::Table(table) => flatten(&key, table, leaf)?,
            _ => leaf(key, name.span().start, scalar(value))?,
        }
    }
    Ok(())
}

fn scalar(value: &Spanned<DeValue<'_>>) -> Result<String, String> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(flag) => Ok(flag.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().replace('_', "")),
        DeValue::Float(number) => Ok(number.as_str().replace('_', "")),
        other => Err(format!(
            "a setting is a string, a number or a boolean, not {}",
            other.type_str()
        )),
    }
}
