"""The GPUs that kernels are compiled for, and what one multiprocessor of each can hold.

Data only, from the vendors' documents: CUDA's table of technical specifications per compute capability; AMD's manual
of the CDNA 3 instruction set, and the limits in LLVM's AMDGPU backend. "Warp" and "multiprocessor" stand for AMD's
wavefront and compute unit as well.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """Sizes are in bytes per multiprocessor unless they say otherwise."""

    name: str
    backend: str  # as Triton calls it
    arch: int | str
    warp_size: int
    partitions: int  # each with registers and warps of its own
    registers: int  # 32-bit registers of one partition
    register_unit: int  # a thread gets a multiple of this
    warps: int  # of one partition
    ctas: int
    shared: int
    shared_per_cta: int
    shared_reserved: int  # taken from each CTA's share by the system
    tensor_memory: int = 0  # columns

    def ctas_that_fit(self, registers: int, warps: int, shared: int, tensor_memory: int = 0) -> int:
        """How many CTAs of `warps` warps one multiprocessor runs at a time; 0 if not even one fits."""
        if shared > self.shared_per_cta:
            return 0
        per_warp = -(-max(registers, 1) // self.register_unit) * self.register_unit * self.warp_size
        resident = self.partitions * min(self.warps, self.registers // per_warp)
        fits = [self.ctas, resident // warps]
        if shared + self.shared_reserved:
            fits.append(self.shared // (shared + self.shared_reserved))
        if tensor_memory:
            fits.append(self.tensor_memory // tensor_memory)
        return min(fits)


def _cuda(arch: int, shared_kib: int, tensor_memory: int = 0) -> Target:
    """The data center parts since sm_80, which differ in shared and tensor memory."""
    return Target(
        name=f"sm_{arch}",
        backend="cuda",
        arch=arch,
        warp_size=32,
        partitions=4,
        registers=16384,
        register_unit=8,
        warps=16,
        ctas=32,
        shared=shared_kib * 1024,
        shared_per_cta=(shared_kib - 1) * 1024,
        shared_reserved=1024,
        tensor_memory=tensor_memory,
    )


_GFX942 = Target(
    name="gfx942",
    backend="hip",
    arch="gfx942",
    warp_size=64,
    partitions=4,
    registers=32768,
    register_unit=8,
    warps=8,
    ctas=16,
    shared=64 * 1024,
    shared_per_cta=64 * 1024,
    shared_reserved=0,
)

TARGETS: dict[str, Target] = {
    target.name: target for target in (_cuda(80, 164), _cuda(90, 228), _cuda(100, 228, tensor_memory=512), _GFX942)
}
