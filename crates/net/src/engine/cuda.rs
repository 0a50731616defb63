pub(crate) type CudaEngine = super::cpu::CpuEngine;
impl CudaEngine {
    pub(crate) fn new(_: &crate::device::Cuda, norm_epsilon: f32) -> Result<Self, crate::Error> {
        Ok(Self { level: crate::device::SimdLevel::detect(), norm_epsilon })
    }
}
