//! Classes of voxels whose cell has corners of several classes, many at a time.

/// Voxels that are decided together.
const ROOM: usize = 64;

/// Voxels to be decided: corners and fractions of their cells, and where in the patch they lie.
pub(super) struct Undecided {
    count: usize,
    /// By corner, z slowest.
    corners: [[i32; ROOM]; 8],
    /// Along z, y, x.
    t: [[f64; ROOM]; 3],
    at: [[usize; 3]; ROOM],
}

impl Default for Undecided {
    fn default() -> Self {
        let (corners, t) = ([[0; ROOM]; 8], [[0.0; ROOM]; 3]);
        Self { count: 0, corners, t, at: [[0; 3]; ROOM] }
    }
}

impl Undecided {
    #[inline(always)]
    pub(super) fn add(&mut self, (corners, t): ([i16; 8], [f32; 3]), at: [usize; 3]) {
        for (all, corner) in self.corners.iter_mut().zip(corners) {
            all[self.count] = i32::from(corner);
        }
        for (all, t) in self.t.iter_mut().zip(t) {
            all[self.count] = f64::from(t);
        }
        self.at[self.count] = at;
        self.count += 1;
    }

    pub(super) fn full(&self) -> bool {
        self.count == ROOM
    }

    /// Hands out all voxels with the classes of the largest sums of weights. Of equal ones that of the nearest corner wins,
    /// or the smallest if the nearest corner's is not among them.
    #[inline(always)]
    pub(super) fn decide(&mut self, mut found: impl FnMut([usize; 3], i16)) {
        if self.count == 0 {
            return;
        }
        let mut weights = [[0.0f64; ROOM]; 8];
        for (i, weights) in weights.iter_mut().enumerate() {
            for k in 0..ROOM {
                let side = |t: f64, upper: usize| if upper == 1 { t } else { 1.0 - t };
                let (z, y) = (side(self.t[0][k], i >> 2), side(self.t[1][k], (i >> 1) & 1));
                weights[k] = z * y * side(self.t[2][k], i & 1);
            }
        }
        let mut nearest = [0i32; ROOM];
        for k in 0..ROOM {
            let upper = [0, 1, 2].map(|axis| self.t[axis][k] >= 0.5);
            let of = |i: usize| self.corners[i][k];
            let along_x = |i: usize| if upper[2] { of(i + 1) } else { of(i) };
            let front = if upper[1] { along_x(2) } else { along_x(0) };
            let back = if upper[1] { along_x(6) } else { along_x(4) };
            nearest[k] = if upper[0] { back } else { front };
        }
        let (mut best, mut most) = (nearest, self.sums(&weights, &nearest));
        for i in 0..8 {
            let sums = self.sums(&weights, &self.corners[i]);
            for k in 0..ROOM {
                let class = self.corners[i][k];
                let tie = (sums[k] == most[k]) & (best[k] != nearest[k]) & (class < best[k]);
                let better = (sums[k] > most[k]) | tie;
                best[k] = if better { class } else { best[k] };
                most[k] = if better { sums[k] } else { most[k] };
            }
        }
        for (at, class) in self.at[..self.count].iter().zip(best) {
            found(*at, class as i16);
        }
        self.count = 0;
    }

    /// Sum of the weights of those corners that are of these classes.
    #[inline(always)]
    fn sums(&self, weights: &[[f64; ROOM]; 8], classes: &[i32; ROOM]) -> [f64; ROOM] {
        let mut sums = [0.0; ROOM];
        for (corners, weights) in self.corners.iter().zip(weights) {
            for k in 0..ROOM {
                sums[k] += if corners[k] == classes[k] { weights[k] } else { 0.0 };
            }
        }
        sums
    }
}
