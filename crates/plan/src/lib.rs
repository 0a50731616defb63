//! Derives configurations (patch, batch, topology, preprocessing) from a fingerprint and a recipe.
