//! The U-Net: forward, backward, loss and optimiser on the CPU.
