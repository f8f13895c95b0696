"""Stage 2: CLIP loss, mined targets, regions, one training step on phantom pairs."""

import math

import numpy as np
import torch

from emrrg_lib.data.loading import load_annotation
from emrrg_lib.data.study import OBSERVATIONS
from emrrg_lib.training.contrastive import ContrastiveModel, clip_loss, half_masks
from emrrg_lib.training.mining import UNKNOWN, mine_targets
from emrrg_lib.training.pretrain import PairCollator

EFFUSION, EDEMA = OBSERVATIONS.index("Pleural Effusion"), OBSERVATIONS.index("Edema")


def test_clip_loss_against_a_float64_loop():
    rng = np.random.default_rng(0)
    image, text, scale = rng.normal(size=(5, 7)), rng.normal(size=(5, 7)), 1.3
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
    logits = math.exp(scale) * unit[0] @ unit[1].T
    loss = 0.0
    for matrix in (logits, logits.T):
        for i, row in enumerate(matrix):
            loss += (math.log(np.exp(row).sum()) - row[i]) / 10
    ours = clip_loss(torch.tensor(image), torch.tensor(text), torch.tensor(scale, dtype=torch.float64))
    assert abs(ours.item() - loss) < 1e-12


def test_aligned_pairs_beat_shuffled_pairs():
    x = torch.randn(6, 8)
    assert clip_loss(x, x, torch.tensor(2.0)) < clip_loss(x, x.flip(0), torch.tensor(2.0))


def test_mined_targets_know_presence_and_side():
    targets = mine_targets("There is a small right pleural effusion. There is pulmonary edema. "
                           "No left pneumothorax.")
    assert targets[:, EFFUSION].tolist() == [1, 1, 0]
    assert targets[:, EDEMA].tolist() == [1, UNKNOWN, UNKNOWN]
    assert targets[:, OBSERVATIONS.index("Pneumothorax")].tolist() == [0, 0, 0]
    assert mine_targets("There are bilateral pleural effusions.")[:, EFFUSION].tolist() == [1, 1, 1]


def test_halves_split_the_image_and_leave_the_cls_token_out():
    masks = half_masks(4)
    assert masks.shape == (3, 17) and masks[0].all()
    assert not masks[1:, 8].any()  # cls in the middle
    right = torch.cat([masks[1, :8], masks[1, 9:]]).view(4, 4)
    assert right[:, :2].all() and not right[:, 2:].any()  # the patient's right is the image's left
    assert torch.equal(masks[1] ^ masks[2], torch.cat([torch.ones(8), torch.zeros(1), torch.ones(8)]).bool())


def test_a_step_on_phantom_pairs_reaches_every_parameter(phantom_dir, make_encoder, tokenizer):
    studies = load_annotation(phantom_dir, "train")
    collate = PairCollator(studies, [s.report.lower() for s in studies], tokenizer, 16,
                           lateral_share=0.5, seed=0)
    batch = collate(list(range(6)))
    assert 6 <= len(batch["pixel_values"]) <= 12 and batch["frontal"].sum() == 6
    model = ContrastiveModel(make_encoder(), len(tokenizer), tokenizer.pad_token_id, 16, 8)
    output = model(**batch)
    output["loss"].backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # BERT adds one token-type row for every token; positions past the texts are unused, not the table
    assert idle == []


def test_a_lateral_view_speaks_for_the_whole_study_only(make_encoder, tokenizer):
    model = ContrastiveModel(make_encoder(), len(tokenizer), tokenizer.pad_token_id, 16, 8)
    tokens = torch.randn(2, 17, 16)
    study, frontal = torch.tensor([0, 0]), torch.tensor([True, False])
    both = model.observation_logits(tokens, study, frontal, 1)
    alone = model.observation_logits(tokens[:1], study[:1], frontal[:1], 1)
    assert torch.equal(both[:, 1:], alone[:, 1:]) and (both[:, 0] > alone[:, 0]).all()
    expected = torch.cat([model.observation_head(t) for t in tokens]).logsumexp(0)
    torch.testing.assert_close(both[0, 0], expected)
