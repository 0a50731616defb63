//! Recipes: the built-in ones, a user's file on top of one, single settings on top of both.
//!
//! A recipe stays a commented TOML document until the end, so that the comments reach `plan.toml`.

use crate::settings::{self, Setting};
use artifact::recipe::Recipe;
use stage::{Error, Result};
use std::path::Path;
use toml_edit::DocumentMut;

/// Name and text of every built-in recipe.
pub const BUILT_IN: [(&str, &str); 1] = [("paper", include_str!("../recipes/paper.toml"))];

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
            let names: Vec<&str> = BUILT_IN.iter().map(|(n, _)| *n).collect();
            return Err(Error::usage(format!(
                "--recipe {name}: neither a built-in recipe ({}) nor a file",
                names.join(", ")
            )));
        };
        let document = text.parse().map_err(|e| Error::failed(format!("recipe {name}: {e}")))?;
        Ok(Self { document })
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
        // A complete file has the keys of the built-in recipes, too.
        let template = match &base {
            Some(base) => {
                let base = base.as_str().unwrap_or_default();
                Self::built_in(base).map_err(|_| {
                    Error::input(format!("{name}: base = \"{base}\", expected \"paper\""))
                })?
            }
            None => Self::built_in(BUILT_IN[0].0)?,
        };
        let merged = template.changed(&mut document, &name)?;
        let resolved = if base.is_some() { merged } else { Self { document } };
        if let Some(missing) = template.keys().iter().find(|k| !resolved.keys().contains(k)) {
            return Err(Error::input(format!("{name}: {missing} is missing"))
                .hint("to change only some keys, begin the file with base = \"paper\""));
        }
        resolved.parse().map_err(|e| Error::input(format!("{name}: {e}")))?;
        Ok(resolved)
    }

    /// This recipe with the values of a file's document in place of its own.
    fn changed(&self, document: &mut DocumentMut, file: &str) -> Result<Self> {
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
            settings::replace(old, value, "recipe file");
        }
        Ok(changed)
    }

    /// Changes one key.
    ///
    /// # Errors
    /// If the key is unknown (the nearest is named) or the value of another type.
    pub fn set(&mut self, setting: &Setting) -> Result<()> {
        let known = settings::keys(&self.document);
        let Some(old) = settings::value_mut(&mut self.document, &setting.key) else {
            return Err(settings::unknown("--set", &setting.key, known.iter()));
        };
        let value = setting.value_like(old)?;
        settings::replace(old, value, "--set");
        let set = format!("--set {}={}", setting.key, setting.value);
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
        check_planning(&recipe)?;
        Ok(recipe)
    }
}

/// Numbers that the planner divides by or counts with.
fn check_planning(recipe: &Recipe) -> std::result::Result<(), String> {
    let p = &recipe.planning;
    let counts = [
        ("reference_patch_3d", p.reference_patch_3d.iter().product()),
        ("reference_batch_3d", p.reference_batch_3d),
        ("max_patch_edge_3d", p.max_patch_edge_3d),
        ("reference_patch_2d", p.reference_patch_2d.iter().product()),
        ("reference_batch_2d", p.reference_batch_2d),
        ("base_features", p.base_features),
        ("max_features_3d", p.max_features_3d),
        ("max_features_2d", p.max_features_2d),
        ("convs_per_stage", p.convs_per_stage),
        ("max_poolings_3d", p.max_poolings_3d),
        ("max_poolings_2d", p.max_poolings_2d),
        ("min_batch_size", p.min_batch_size),
    ];
    if let Some((key, _)) = counts.iter().find(|(_, n)| *n == 0) {
        return Err(format!("recipe.planning.{key} = 0, expected at least 1"));
    }
    if p.max_poolings_3d.max(p.max_poolings_2d) > 16 {
        return Err("recipe.planning.max_poolings is above 16, expected 1 to 16".into());
    }
    if !(p.low_resolution_step > 1.0 && p.low_resolution_step.is_finite()) {
        let found = p.low_resolution_step;
        return Err(format!("recipe.planning.low_resolution_step = {found}, expected above 1"));
    }
    if !(0.0..=100.0).contains(&p.target_spacing_percentile) {
        let found = p.target_spacing_percentile;
        return Err(format!(
            "recipe.planning.target_spacing_percentile = {found}, expected 0 to 100"
        ));
    }
    Ok(())
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
