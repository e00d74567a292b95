//! Pseudo-random numbers that are the same on every machine.

/// SplitMix64 by Steele, Lea and Flood (2014, doi:10.1145/2714064.2660195), with its state.
#[derive(Clone, Debug)]
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A uniform number of mean 0 and deviation 1.
    pub fn unit(&mut self) -> f32 {
        let zero_to_one = (self.bits() >> 40) as f32 / (1_u32 << 24) as f32;
        (zero_to_one - 0.5) * 12.0_f32.sqrt()
    }
}
