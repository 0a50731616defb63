//! Recipes: the built-in ones, a user's file on top of one, single settings on top of both.
//!
//! A recipe stays a commented TOML document until the end, so that the comments reach `plan.toml`.

use crate::settings::{self, Setting};
use artifact::recipe::Recipe;
use stage::{Error, Result};
use std::path::Path;
use toml_edit::DocumentMut;

/// Name and text of every built-in recipe; complete, or `base = "NAME"` and the keys that differ from an earlier one.
pub const BUILT_IN: [(&str, &str); 6] = [
    ("paper", include_str!("../recipes/paper.toml")),
    ("v2", include_str!("../recipes/v2.toml")),
    ("v2-resenc", include_str!("../recipes/v2-resenc.toml")),
    ("v2-resenc-m", include_str!("../recipes/v2-resenc-m.toml")),
    ("v2-resenc-l", include_str!("../recipes/v2-resenc-l.toml")),
    ("v2-resenc-xl", include_str!("../recipes/v2-resenc-xl.toml")),
];

/// Names of the built-in recipes, for messages.
pub fn names() -> String {
    let names: Vec<&str> = BUILT_IN.iter().map(|(n, _)| *n).collect();
    names.join(", ")
}

/// A recipe as text and as values.
#[derive(Debug, Clone)]
pub struct Resolved {
    document: DocumentMut,
}

impl Resolved {
    /// A built-in recipe.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn built_in(name: &str) -> Result<Self> {
        let Some((_, text)) = BUILT_IN.iter().find(|(n, _)| *n == name) else {
            let names = names();
            return Err(Error::usage(format!(
                "--recipe {name}: neither a built-in recipe ({names}) nor a file"
            )));
        };
        let broken = |e: String| Error::failed(format!("recipe {name}: {e}"));
        let mut document: DocumentMut = text.parse().map_err(|e| broken(format!("{e}")))?;
        match document.remove("base") {
            Some(base) => {
                let base = Self::built_in(base.as_str().unwrap_or_default())?;
                base.changed(&mut document, name, name).map_err(|e| broken(e.message))
            }
            None => Ok(Self { document }),
        }
    }

    /// A recipe from the text of `file`: complete, or `base = "paper"` and the keys that differ.
    ///
    /// # Errors
    /// If it isn't TOML, a key is unknown, missing, or of the wrong type.
    pub fn from_text(text: &str, file: &Path) -> Result<Self> {
        let name = file.display().to_string();
        let mut document: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| {
            let start = e.span().map_or(0, |span| span.start.min(text.len()));
            let line = 1 + text.as_bytes()[..start].iter().filter(|&&b| b == b'\n').count();
            Error::input(format!("{name}: line {line}: {}", one_line(e.message())))
        })?;
        let base = document.remove("base");
        // A complete file has the keys of the built-in recipe with its planner, too.
        let template = match &base {
            Some(base) => {
                let base = base.as_str().unwrap_or_default();
                Self::built_in(base).map_err(|_| {
                    let names = names();
                    Error::input(format!("{name}: base = \"{base}\", expected one of {names}"))
                })?
            }
            None => {
                let rules = settings::value_mut(&mut document, "planning.rules");
                let rules = rules.and_then(|v| v.as_str().map(String::from));
                match rules.as_deref() {
                    None | Some("paper") => Self::built_in("paper")?,
                    Some("v2") => Self::built_in("v2")?,
                    Some(rules) => {
                        let message = format!("planning.rules = \"{rules}\", expected paper or v2");
                        return Err(Error::input(format!("{name}: {message}")));
                    }
                }
            }
        };
        let merged = template.changed(&mut document, &name, "recipe file")?;
        let resolved = if base.is_some() { merged } else { Self { document } };
        if let Some(missing) = template.keys().iter().find(|k| !resolved.keys().contains(k)) {
            return Err(Error::input(format!("{name}: {missing} is missing")).hint(
                "to change only some keys, begin the file with base = \"paper\" or base = \"v2\"",
            ));
        }
        resolved.parse().map_err(|e| Error::input(format!("{name}: {e}")))?;
        Ok(resolved)
    }

    /// This recipe with the values of a file's document in place of its own; their comments say `by` whom.
    fn changed(&self, document: &mut DocumentMut, file: &str, by: &str) -> Result<Self> {
        let mut changed = self.clone();
        for path in settings::keys(document) {
            let new = settings::value_mut(document, &path).map(|v| v.clone());
            let old = settings::value_mut(&mut changed.document, &path);
            let (Some(new), Some(old)) = (new, old) else {
                let message = settings::unknown(file, &path, self.keys().iter()).message;
                return Err(Error::input(message));
            };
            let setting = Setting { key: path, value: new.decorated("", "").to_string() };
            let value = setting.value_like(old).map_err(|e| {
                Error::input(format!("{file}: {}", e.message.trim_start_matches("--set ")))
            })?;
            settings::replace(old, value, by);
        }
        Ok(changed)
    }

    /// Changes one key.
    ///
    /// # Errors
    /// If the key is unknown (the nearest is named) or the value of another type.
    pub fn set(&mut self, setting: &Setting) -> Result<()> {
        self.change(setting, "--set")
    }

    /// As [`Self::set`], with the comment saying `by` what.
    pub(crate) fn change(&mut self, setting: &Setting, by: &str) -> Result<()> {
        let known = settings::keys(&self.document);
        let Some(old) = settings::value_mut(&mut self.document, &setting.key) else {
            return Err(settings::unknown(by, &setting.key, known.iter()));
        };
        let value = setting.value_like(old)?;
        settings::replace(old, value, by);
        let set = format!("{by} {}={}", setting.key, setting.value);
        self.parse().map(drop).map_err(|e| Error::usage(format!("{set}: {e}")))
    }

    /// Every key that can be set.
    pub fn keys(&self) -> Vec<String> {
        settings::keys(&self.document)
    }

    /// The recipe with its comments.
    pub fn document(&self) -> &DocumentMut {
        &self.document
    }

    /// The recipe's values.
    ///
    /// # Errors
    /// If a value can't be used by any stage; one line with the key.
    pub fn recipe(&self) -> Result<Recipe> {
        self.parse().map_err(Error::input)
    }

    fn parse(&self) -> std::result::Result<Recipe, String> {
        let text = self.document.to_string();
        let recipe: Recipe = toml::from_str(&text).map_err(|e| one_line(e.message()))?;
        recipe.check()?;
        Ok(recipe)
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
