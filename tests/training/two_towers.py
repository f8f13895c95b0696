"""One of two processes of the test of stage 2's global batch; imports little, so that it starts fast."""

import sys

import torch
import torch.distributed as dist
from torch import nn

from emrrg_lib.training.stage2 import clip_loss, gather_batch


class Towers(nn.Module):
    """Two linear towers and a temperature under the CLIP loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, image, text):
        return clip_loss(gather_batch(self.image(image)), gather_batch(self.text(text)), self.scale)


def loss_and_gradients(model, rows):
    """Of the given rows of six fixed pairs."""
    generator = torch.Generator().manual_seed(4)
    image, text = torch.randn(6, 6, generator=generator), torch.randn(6, 5, generator=generator)
    loss = model(image[rows], text[rows])
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters())]


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    wrapped = nn.parallel.DistributedDataParallel(Towers())
    torch.save(loss_and_gradients(wrapped, slice(3 * rank, 3 * rank + 3)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
