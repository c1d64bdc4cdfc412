//! 3×3 convolutions of few channels, as the processor at hand does them best.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(not(target_arch = "x86_64"))]
mod never;

#[cfg(target_arch = "x86_64")]
pub use self::avx2::Direct;
#[cfg(not(target_arch = "x86_64"))]
pub use self::never::Direct;
