//! How large patches and batches may be: the paper counts voxels per batch, not bytes.
//!
//! The reference patch times the reference batch fills the reference card. Another card holds proportionally more or
//! fewer voxels. Patches are as large as the smallest allowed batch permits; what is left over enlarges the batch.

use artifact::recipe::PaperPlanning;

/// Limits of one kind of configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Voxels that a batch may have.
    pub batch_voxels: f64,
    /// Voxels that a patch may have, so that the smallest batch still fits.
    pub patch_voxels: usize,
    /// Longest patch edge.
    pub max_edge: usize,
    /// Poolings per axis at most.
    pub max_poolings: usize,
    /// Feature maps at most.
    pub max_features: usize,
}

impl Budget {
    /// Limits of 3D configurations.
    pub fn volumes(p: &PaperPlanning) -> Self {
        let reference = p.reference_patch_3d.iter().product::<usize>() * p.reference_batch_3d;
        // Memory grows with the cube of a patch's edge; so does the longest edge that makes sense.
        let longer = (p.gpu_memory_gib / p.reference_memory_gib).cbrt().max(1.0);
        let max_edge = (p.max_patch_edge_3d as f64 * longer).floor() as usize;
        Self::new(p, reference, max_edge, p.max_poolings_3d, p.max_features_3d)
    }

    /// Limits of 2D configurations.
    pub fn slices(p: &PaperPlanning) -> Self {
        let reference = p.reference_patch_2d.iter().product::<usize>() * p.reference_batch_2d;
        Self::new(p, reference, usize::MAX, p.max_poolings_2d, p.max_features_2d)
    }

    fn new(
        p: &PaperPlanning,
        reference: usize,
        max_edge: usize,
        max_poolings: usize,
        max_features: usize,
    ) -> Self {
        let batch_voxels = reference as f64 * (p.gpu_memory_gib / p.reference_memory_gib);
        let patch_voxels = (batch_voxels / p.min_batch_size.max(1) as f64).floor() as usize;
        Self { batch_voxels, patch_voxels, max_edge, max_poolings, max_features }
    }

    /// Samples per batch: as many as fit, but no more than `max_dataset_fraction_per_batch` of the data set's voxels
    /// (rounded), and never fewer than `min_batch_size`.
    pub fn batch(&self, p: &PaperPlanning, patch: [usize; 3], dataset_voxels: f64) -> usize {
        let patch_voxels = patch.iter().product::<usize>() as f64;
        let fits = (self.batch_voxels / patch_voxels).floor() as usize;
        let share = p.max_dataset_fraction_per_batch * dataset_voxels / patch_voxels;
        fits.min(share.round_ties_even() as usize).max(p.min_batch_size).max(1)
    }
}
