//! Cases in device memory: all of them if they fit, else those that were used last.

use crate::Loader;
use kernels::{Buffer, Event, Gpu, GpuError, Pinned, Plain, Pointer, Stream};

/// Bytes that go from the host to the device at once.
const STAGE: usize = 8 << 20;

/// Arrays of a slot begin at multiples of this.
const ALIGNMENT: usize = 256;

kernels::arguments! {
    /// `AugmentPrefilterArgs` of augment_space.cu.
    struct PrefilterArgs { values: Pointer, lines: u64, inner: u64, n: u32, unused: u32 }
}

/// Where the arrays of a case lie from the beginning of its slot, bytes; 0 for those that aren't there.
#[derive(Debug, Clone, Copy)]
struct Layout {
    coefficients: usize,
    label: usize,
    previous: usize,
    bytes: usize,
}

/// Addresses of a case's arrays.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CasePointers {
    pub image: Pointer,
    pub coefficients: Pointer,
    pub label: Pointer,
    pub previous: Pointer,
}

#[derive(Debug)]
struct Slot {
    buffer: Buffer,
    case: Option<usize>,
    last_use: u64,
    /// Its case has come.
    filled: Option<Event>,
    /// Nothing reads its case any more.
    used: Option<Event>,
}

/// Consecutive samples of a batch whose cases are in memory together.
#[derive(Debug)]
pub(super) struct Group {
    /// First sample.
    pub first: usize,
    /// Number of samples.
    pub count: usize,
    /// Slots that get another case first, and which.
    fills: Vec<(usize, usize)>,
    /// Slots that are read.
    slots: Vec<usize>,
}

/// The cases of a loader on a card, and the queue that brings them there.
#[derive(Debug)]
pub(super) struct Cases {
    slots: Vec<Slot>,
    layouts: Vec<Layout>,
    /// Most different cases of a group.
    together: usize,
    /// Axes along which images become B-spline coefficients; none if nothing interpolates with them.
    prefiltered: Vec<usize>,
    staging: Staging,
    turn: u64,
}

impl Cases {
    /// Takes the memory, at most `budget` bytes.
    pub fn new(loader: &Loader, gpu: &Gpu, budget: u64) -> Result<Self, GpuError> {
        let prefiltered = prefiltered_axes(loader);
        let layouts: Vec<Layout> = (0..loader.cases.len())
            .map(|case| layout(loader, case, !prefiltered.is_empty()))
            .collect();
        let sizes = slot_sizes(&layouts, budget)?;
        let together = if sizes.len() == layouts.len() { sizes.len() } else { sizes.len() / 2 };
        let slot = |bytes: usize| {
            let buffer = gpu.buffer(bytes)?;
            Ok(Slot { buffer, case: None, last_use: 0, filled: None, used: None })
        };
        Ok(Self {
            slots: sizes.into_iter().map(slot).collect::<Result<_, GpuError>>()?,
            layouts,
            together: together.max(1),
            prefiltered,
            staging: Staging::new(gpu, STAGE)?,
            turn: 0,
        })
    }

    /// Whether all cases stay in memory.
    pub fn all_stay(&self) -> bool {
        self.slots.len() == self.layouts.len()
    }

    /// Gives every sample's case a slot. To be followed by [`Self::fill`] and [`Self::used`] for each group, in order.
    pub fn plan(&mut self, samples: &[usize]) -> (Vec<Group>, Vec<CasePointers>) {
        let mut groups: Vec<Group> = Vec::new();
        let mut pointers = Vec::with_capacity(samples.len());
        for (sample, &case) in samples.iter().enumerate() {
            let holds =
                |group: &Group| group.slots.iter().any(|&s| self.slots[s].case == Some(case));
            if !groups.last().is_some_and(|g| holds(g) || g.slots.len() < self.together) {
                groups.push(Group { first: sample, count: 0, fills: vec![], slots: vec![] });
                self.turn += 1;
            }
            let group = groups.last_mut().expect("pushed if there was none");
            let slot = self.slot_for(case, group);
            group.count += 1;
            pointers.push(self.pointers(slot, case));
        }
        (groups, pointers)
    }

    fn slot_for(&mut self, case: usize, group: &mut Group) -> usize {
        let found = self.slots.iter().position(|slot| slot.case == Some(case));
        let slot = found.unwrap_or_else(|| {
            let slot = if self.all_stay() { case } else { self.oldest(group) };
            group.fills.push((slot, case));
            self.slots[slot].case = Some(case);
            slot
        });
        self.slots[slot].last_use = self.turn;
        if !group.slots.contains(&slot) {
            group.slots.push(slot);
        }
        slot
    }

    fn oldest(&self, group: &Group) -> usize {
        (0..self.slots.len())
            .filter(|slot| !group.slots.contains(slot))
            .min_by_key(|&slot| self.slots[slot].last_use)
            .expect("a group has fewer cases than there are slots")
    }

    fn pointers(&self, slot: usize, case: usize) -> CasePointers {
        let (base, at) = (self.slots[slot].buffer.pointer(), self.layouts[case]);
        let part =
            |offset: usize| if offset > 0 { base.offset(offset) } else { Pointer::default() };
        CasePointers {
            image: base,
            coefficients: part(at.coefficients),
            label: part(at.label),
            previous: part(at.previous),
        }
    }

    /// Brings a group's cases, and lets `reader` wait for them.
    pub fn fill(
        &mut self,
        loader: &Loader,
        group: &Group,
        reader: &Stream,
    ) -> Result<(), GpuError> {
        for &(slot, case) in &group.fills {
            if let Some(used) = &self.slots[slot].used {
                self.staging.stream.wait(used)?;
            }
            self.bring(loader, slot, case)?;
            self.slots[slot].filled = Some(self.staging.stream.record()?);
        }
        for &slot in &group.slots {
            if let Some(filled) = self.slots[slot].filled.take() {
                reader.wait(&filled)?;
            }
        }
        Ok(())
    }

    fn bring(&mut self, loader: &Loader, slot: usize, case: usize) -> Result<(), GpuError> {
        let to = self.pointers(slot, case);
        let source = &loader.cases[case];
        let image = source.image();
        let values = image.as_slice().expect("a case is in C order");
        self.staging.upload(to.image, values)?;
        let label = source.label().expect("cases are labelled");
        self.staging.upload(to.label, label.as_slice().expect("a case is in C order"))?;
        if let Some(previous) = loader.previous.get(case) {
            let classes = previous.classes();
            let classes = classes.as_slice().expect("a prediction is in C order");
            self.staging.upload(to.previous, classes)?;
        }
        if !self.prefiltered.is_empty() {
            self.staging.stream.copy(to.image, to.coefficients, size_of_val(values))?;
            let (channels, z, y, x) = image.dim();
            self.prefilter(to.coefficients, [channels, z, y, x])?;
        }
        Ok(())
    }

    /// Turns `[channel, z, y, x]` samples into coefficients along the interpolated axes.
    fn prefilter(&self, values: Pointer, shape: [usize; 4]) -> Result<(), GpuError> {
        let all: usize = shape.iter().product();
        for &axis in &self.prefiltered {
            let n = shape[axis + 1];
            if n < 2 {
                continue;
            }
            let inner: usize = shape[axis + 2..].iter().product();
            let lines = all / n;
            let arguments = PrefilterArgs {
                values,
                lines: lines as u64,
                inner: inner as u64,
                n: super::small(n),
                unused: 0,
            };
            let (kernel, threads, per_block) = match inner {
                1 => ("augment_prefilter_rows", 32, 32),
                _ => ("augment_prefilter_columns", 256, 256),
            };
            let grid = [super::small(lines.div_ceil(per_block)), 1, 1];
            self.staging.stream.launch(kernel, grid, threads, 0, &arguments)?;
        }
        Ok(())
    }

    /// Marks that `reader` has come past its reads of a group's cases.
    pub fn used(&mut self, group: &Group, reader: &Stream) -> Result<(), GpuError> {
        if self.all_stay() {
            return Ok(());
        }
        for &slot in &group.slots {
            self.slots[slot].used = Some(reader.record()?);
        }
        Ok(())
    }
}

fn prefiltered_axes(loader: &Loader) -> Vec<usize> {
    if !super::spatial::fires(loader) || loader.settings.recipe.image_order != 3 {
        return Vec::new();
    }
    (0..3).filter(|&axis| loader.settings.frame.across() != Some(axis)).collect()
}

fn layout(loader: &Loader, case: usize, coefficients: bool) -> Layout {
    let info = &loader.cases[case].record.body.case;
    let voxels: usize = info.shape.iter().product();
    let mut bytes = 0;
    let mut place = |wanted: bool, length: usize| {
        let at = if wanted { bytes } else { 0 };
        if wanted {
            bytes += length.next_multiple_of(ALIGNMENT);
        }
        at
    };
    place(true, 4 * info.channels * voxels);
    let coefficients = place(coefficients, 4 * info.channels * voxels);
    let label = place(true, 2 * voxels);
    let previous = place(!loader.previous.is_empty(), 2 * voxels);
    Layout { coefficients, label, previous, bytes }
}

/// One slot for each case, as large as that, or as many of the largest case's size as the budget holds.
fn slot_sizes(layouts: &[Layout], budget: u64) -> Result<Vec<usize>, GpuError> {
    let all: u64 = layouts.iter().map(|l| l.bytes as u64).sum();
    if all <= budget {
        return Ok(layouts.iter().map(|l| l.bytes).collect());
    }
    let largest = layouts.iter().map(|l| l.bytes).max().unwrap_or(0);
    let count = usize::try_from(budget / largest as u64).unwrap_or(usize::MAX);
    if count == 0 {
        return Err(GpuError::Memory {
            what: "the largest case".into(),
            wanted: largest as u64,
            free: budget,
            way_out: "augment on the CPU, or plan for less GPU memory (nnu-plan --gpu-memory), so that more is left \
                      for cases"
                .into(),
        });
    }
    Ok(vec![largest; count])
}

/// The way from the host to the device: two halves of pinned memory, one of which is written while the other one is read.
#[derive(Debug)]
struct Staging {
    stream: Stream,
    halves: [Pinned; 2],
    next: usize,
}

impl Staging {
    fn new(gpu: &Gpu, bytes: usize) -> Result<Self, GpuError> {
        Ok(Self {
            stream: gpu.stream()?,
            halves: [gpu.pinned(bytes)?, gpu.pinned(bytes)?],
            next: 0,
        })
    }

    /// Queues a copy of `values`; they were read when this returns.
    fn upload<T: Plain>(&mut self, to: Pointer, values: &[T]) -> Result<(), GpuError> {
        let at_once = self.halves[0].bytes() / size_of::<T>();
        for (i, values) in values.chunks(at_once).enumerate() {
            let half = &mut self.halves[self.next];
            half.write(0, values);
            // The other half is free after this, and the next one to be written.
            self.stream.synchronise()?;
            let to = to.offset(i * at_once * size_of::<T>());
            self.stream.upload_pinned(to, half, size_of_val(values))?;
            self.next = 1 - self.next;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_longer_than_pinned_memory_come_in_pieces() {
        for gpu in kernels::test_gpus() {
            let mut staging = Staging::new(&gpu, 64).unwrap();
            let values: Vec<f32> = (0..100u8).map(f32::from).collect();
            let buffer = gpu.buffer(400).unwrap();
            for part in [&values[..], &values[..16], &values[..17]] {
                staging.upload(buffer.pointer(), part).unwrap();
                let mut found = vec![0.0f32; part.len()];
                staging.stream.download(buffer.pointer(), &mut found).unwrap();
                assert_eq!(found, part);
            }
        }
    }

    #[test]
    fn cases_stay_if_they_fit() {
        let layouts =
            [512, 1024, 768].map(|bytes| Layout { coefficients: 0, label: 0, previous: 0, bytes });
        assert_eq!(slot_sizes(&layouts, 2304).unwrap(), [512, 1024, 768]);
        assert_eq!(slot_sizes(&layouts, 2303).unwrap(), [1024, 1024]);
        assert_eq!(slot_sizes(&layouts, 1024).unwrap(), [1024]);
        let error = slot_sizes(&layouts, 1023).unwrap_err().to_string();
        assert!(
            error.starts_with("the largest case needs 1024 bytes of GPU memory, 1023 are free; "),
            "{error}"
        );
    }
}
