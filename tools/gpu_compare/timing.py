"""Medians of GPU work with cold L2, everybody in turn, so that a slow moment hits all alike."""
import statistics
import time

import torch


class Timer:
    def __init__(self, device):
        self.device = torch.device(device)
        if self.device.type == "cuda":
            # Written before every run: twice what any chip of today keeps in L2.
            l2 = getattr(torch.cuda.get_device_properties(self.device), "L2_cache_size", 64 << 20)
            self.flush = torch.empty(2 * l2, dtype=torch.uint8, device=self.device)

    def once_us(self, run):
        if self.device.type != "cuda":
            start = time.perf_counter()
            run()
            return 1e6 * (time.perf_counter() - start)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.flush.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        return 1e3 * start.elapsed_time(end)

    def medians_us(self, runs, rounds):
        """runs: name -> function. Two rounds before do not count: compilation, choice of kernels."""
        times = {name: [] for name in runs}
        for i in range(rounds + 2):
            for name, run in runs.items():
                took = self.once_us(run)
                if i >= 2:
                    times[name].append(took)
        return {name: statistics.median(values) for name, values in times.items()}
