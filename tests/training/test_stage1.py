"""Stage 1: geometry, targets, upstream's names and counts, what may see what, the three objectives."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from emrrg_lib.config import LARGE, EncoderConfig
from emrrg_lib.files import InputError
from emrrg_lib.training.batches import CropCollator, find_images, random_resized_crop
from emrrg_lib.training.pretrain import run_stage1
from emrrg_lib.training.schedules import cosine
from emrrg_lib.training.shares import per_process
from emrrg_lib.training.stage1 import (
    OBJECTIVES,
    Stage1Config,
    Stage1Model,
    cluster_mask,
    cluster_order,
    load_stage1,
    normalised_pixels,
    pick,
    save_stage1,
    sincos_table,
    tapped_layers,
)

SIZES = EncoderConfig(image_size=48, patch_size=4, embed_dim=16, depth=2, drop_path=0.0)  # 9 clusters
BUDGET = Stage1Config(decoder_dim=16, steps=4, warmup_steps=1, batch_size=4, base_learning_rate=0.5)


def small(objective="arg", **sizes):
    torch.manual_seed(0)
    return Stage1Model(EncoderConfig(**{**SIZES.__dict__, **sizes}), objective, 16)


@pytest.mark.parametrize(
    ("sizes", "total", "trained"),
    [({}, 99_427_328, 99_243_008), (LARGE, 303_942_880, 303_721_696)],
    ids=["base", "large"],
)
def test_names_and_counts_are_upstreams(sizes, total, trained):
    with torch.device("meta"):
        model = Stage1Model(EncoderConfig(**sizes))
    assert sum(p.numel() for p in model.parameters()) == total
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained
    depth = model.sizes.depth
    mixer = [
        "A_log",
        "D",
        "in_proj.weight",
        "conv1d.weight",
        "conv1d.bias",
        "x_proj.weight",
        "dt_proj.weight",
        "dt_proj.bias",
        "out_proj.weight",
    ]
    both = ["weight", "bias"]
    block = [f"mixer.{key}" for key in mixer] + [
        f"{part}.{key}" for part in ("mlp.w1", "mlp.w2", "mlp.w3", "norm1", "norm2") for key in both
    ]
    decoder = [
        f"{part}.{key}"
        for key in both
        for part in ("attn2.q", "attn2.kv", "attn2.proj", "norm2_1", "norm2_2", "norm2", "mlp.fc1", "mlp.fc2")
    ]
    names = {"pos_embed", "dec_pos_embed", "ar_token", "mask"}
    names |= {
        f"{part}.{key}"
        for key in both
        for part in (
            "patch_embed.proj",
            "enc2dec",
            "norm_1",
            "norm_2",
            "norm_3",
            "norm_4",
            "ar_norm",
            "ar_pred",
        )
    }
    names |= {f"layers.{i}.{key}" for i in range(depth) for key in block}
    names |= {f"dec_block.{j}.{key}" for j in range(4) for key in decoder}
    assert set(model.state_dict()) == names
    assert model.mask.shape == (128, 128) and model.ar_pred.weight.shape == (768, 512)


def test_position_table_against_a_loop():
    side, dim = 3, 8
    table = sincos_table(side, dim)
    for row in range(side):
        for column in range(side):
            for channel in range(dim):
                index = column if channel < dim // 2 else row
                part, k = divmod(channel % (dim // 2), dim // 4)
                angle = index / 10000 ** (k / (dim / 4))
                expected = math.cos(angle) if part else math.sin(angle)
                assert table[row * side + column, channel].item() == pytest.approx(expected, abs=1e-6)


def test_clusters_lie_in_raster_order():
    order = cluster_order(12)
    assert order[:8].tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
    assert order[16:20].tolist() == [4, 5, 6, 7]  # second cluster, to the right
    assert order[48].item() == 48  # fourth cluster, below the first
    assert sorted(order.tolist()) == list(range(144))
    with pytest.raises(InputError, match="clusters"):
        cluster_order(14)


def test_mask_lets_a_query_see_the_clusters_before_its_own():
    mask = cluster_mask(3)
    for query in range(48):
        for key in range(48):
            assert mask[query, key].item() == (0.0 if key // 16 <= query // 16 else -math.inf)


def test_targets_are_normalised_patches_in_row_column_channel_order():
    image = torch.randn(2, 3, 8, 8)
    ours = normalised_pixels(image, 4)
    patch = image[1, :, 4:8, 0:4].numpy().astype(np.float64)  # row 1, column 0 → patch 2
    flat = patch.transpose(1, 2, 0).ravel()
    expected = (flat - flat.mean()) / math.sqrt(flat.var(ddof=1) + 1e-6)
    np.testing.assert_allclose(ours[1, 2].numpy(), expected, atol=1e-5)


def test_taps_are_the_released_layers():
    assert tapped_layers(12) == [6, 8, 10, 12] and tapped_layers(24) == [12, 16, 20, 24]
    assert tapped_layers(4) == [2, 2, 3, 4] and tapped_layers(1) == [1, 1, 1, 1]


def test_a_cluster_is_predicted_from_earlier_clusters_only():
    model = small()
    with torch.no_grad():  # the queries start equal and the network small: make every part act
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    tokens = torch.randn(1, 144, 16)
    seen, asked = model.plan(1, tokens.device)
    assert seen.shape == asked.shape == (1, 128)

    def predict(x):
        with torch.no_grad():
            return model.decode(model.encode(pick(x, seen)), asked).view(8, 16, -1)

    before = predict(tokens)
    changed = tokens.clone()
    changed[:, model.order[0, 3 * 16 : 4 * 16]] += torch.randn(16)  # cluster 4
    difference = (predict(changed) - before).abs().amax(dim=(1, 2))
    assert torch.equal(difference[:3], torch.zeros(3))  # clusters 2, 3 and 4 itself
    assert (difference[3:] > 1e-4).all()


def test_decoder_block_against_a_float64_loop():
    torch.manual_seed(1)
    block = Stage1Model(SIZES, "arg", 128).double().dec_block[0]
    q, memory = torch.randn(1, 2, 128).double(), torch.randn(1, 3, 128).double()
    mask = torch.tensor([[0.0, -math.inf, -math.inf], [0.0, 0.0, -math.inf]]).double()
    attention, rows = block.attn2, []
    normed, keys = block.norm2_1(q)[0], block.norm2_2(memory)[0]
    for i in range(2):
        heads = []
        for h in range(2):
            part = slice(64 * h, 64 * h + 64)
            query = attention.q(normed[i])[part]
            kv = attention.kv(keys[: i + 1])
            scores = (kv[:, :128][:, part] @ query / 8).softmax(0)
            heads.append(scores @ kv[:, 128:][:, part])
        rows.append(q[0, i] + attention.proj(torch.cat(heads)))
    x = torch.stack(rows)
    x = x + block.mlp.fc2(torch.nn.functional.gelu(block.mlp.fc1(block.norm2(x))))
    torch.testing.assert_close(block(q, memory, mask)[0], x)


def test_each_block_reads_its_own_slice_of_the_four_taps():
    model, read = small(), []
    for block in model.dec_block:
        block.register_forward_pre_hook(lambda _, inputs: read.append(inputs[1]))
    taps = [torch.randn(1, 128, 16) for _ in range(4)]
    model.decode(taps, model.plan(1, torch.device("cpu"))[1])
    norms = (model.norm_1, model.norm_2, model.norm_3, model.norm_4)
    joined = model.enc2dec(torch.cat([norm(tap) for norm, tap in zip(norms, taps, strict=True)], dim=-1))
    for j, memory in enumerate(read):  # every fourth channel, from j on
        torch.testing.assert_close(memory, joined[..., j::4])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_every_parameter(objective):
    model = small(objective)
    model(torch.randn(2, 3, 48, 48))["loss"].backward()
    idle = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.abs().sum())
    ]
    assert idle == []
    assert all(
        name.startswith(("dec", "ar_", "norm_", "enc2dec", "layers", "patch", "pos", "mask"))
        for name in model.state_dict()
    )  # what upstream's expansion drops or knows


def test_masked_objective_reads_a_quarter_and_asks_for_the_rest():
    seen, asked = small("mae").plan(3, torch.device("cpu"))
    assert seen.shape == (3, 36) and asked.shape == (3, 108)
    for row in torch.cat([seen, asked], dim=1):
        assert sorted(row.tolist()) == list(range(144))
    assert not torch.equal(seen[0], seen[1]) and (seen.diff() > 0).all()


def test_next_token_objective_is_equation_2():
    model, image = small("eq2").eval(), torch.randn(1, 3, 48, 48)
    loss, total = model(image)["loss"], 0.0
    with torch.no_grad():
        tokens = model.patch_embed(image)
        for i in range(1, 144, 17):  # Vim([T_1 … T_i]): the context alone, nothing after it
            state = (tokens + model.pos_embed)[:, :i]
            for layer in model.layers:
                state = layer(state)
            target = tokens[0, i] - tokens[0, i].mean()
            target = target / (target.square().mean() + 1e-5).sqrt()
            total += (model.dec_mlp(model.norm_4(state[0, -1])) - target).square().mean()
        taps = model.encode((tokens + model.pos_embed)[:, :-1])
        every = model.dec_mlp(model.norm_4(taps[-1]))
        target = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:])[:, 1:]
    torch.testing.assert_close((every - target).square().mean(), loss)
    torch.testing.assert_close((every - target)[0, 0:143:17].square().mean(dim=-1).sum(), total)


def test_one_direction_backends_agree():
    model, image = small(), torch.randn(2, 3, 48, 48)
    reference = Stage1Model(SIZES, "arg", 16, "reference")
    reference.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(image)["loss"], reference(image)["loss"])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_file_has_upstreams_container_and_comes_back(objective, tmp_path):
    model = small(objective)
    path = save_stage1(model, tmp_path / "stage1.pth", 7, {"batch_size": 4})
    held = torch.load(path, weights_only=True)
    assert set(held) == {"model", "epoch", "args"} and held["epoch"] == 7
    assert held["args"]["batch_size"] == 4 and held["args"]["embed_dim"] == 16
    again = load_stage1(path)
    assert again.objective == objective and again.sizes.image_size == 48
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    torch.save({"model": {"pos_embed": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not a stage-1 file"):
        load_stage1(tmp_path / "other.pth")


def test_crops_keep_the_drawn_share_and_the_whole_image_stays_itself():
    rng, image = np.random.default_rng(0), Image.new("L", (64, 64))
    assert random_resized_crop(image, 16, rng, (0.2, 1.0)).size == (16, 16)
    wide = image.resize((1000, 10))  # no drawn shape fits: the whole image
    assert np.array_equal(
        random_resized_crop(wide, 16, rng, (1.0, 1.0)), wide.resize((16, 16), Image.Resampling.BICUBIC)
    )
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 400).astype(np.uint8), (400, 1)))
    spans = [
        np.ptp(np.asarray(random_resized_crop(ramp, 64, rng, (0.25, 0.25))).astype(int)) / 255
        for _ in range(50)
    ]
    assert min(spans) >= 0.4 and max(spans) <= 0.62  # √(¼ · aspect), aspect in [¾, 4/3]


def test_flips_only_where_wanted(tmp_path):
    Image.fromarray(np.tile(np.arange(48, dtype=np.uint8) * 5, (48, 1))).save(tmp_path / "a.png")
    for flip in (False, True):
        recipe = Stage1Config(flip=flip)
        batch = CropCollator(find_images(tmp_path), 48, recipe, 0)([0] * 20)["pixel_values"]
        mirrored = (batch[:, 0, 0, 0] > batch[:, 0, 0, -1]).sum().item()
        assert mirrored == 0 if not flip else 3 <= mirrored <= 17


def test_cosine_rises_and_falls_to_nothing():
    factors = [cosine(step, 10, 100) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 11) and factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5) and 0 < factors[99] < 0.001


def test_a_batch_is_split_evenly_or_refused():
    assert per_process(48, 4) == 12
    with pytest.raises(InputError, match="48"):
        per_process(48, 5)


def test_a_run_writes_its_file_and_goes_on_from_weights(phantom_dir, tmp_path):
    images = find_images(phantom_dir)
    assert len(images) == 16  # two views of eight training studies
    first = run_stage1(images, SIZES, BUDGET, tmp_path / "a")
    assert (tmp_path / "a" / "run.json").is_file()
    second = run_stage1(images, SIZES, BUDGET, tmp_path / "b", weights=first)
    assert not torch.equal(load_stage1(first).enc2dec.weight, load_stage1(second).enc2dec.weight)
    with pytest.raises(InputError, match="no image files"):
        find_images(tmp_path / "a")


def test_stage_1_becomes_the_four_direction_encoder(tmp_path):
    from emrrg_lib.vision.weights import load_vision_encoder

    for objective in OBJECTIVES:
        model = small(objective)
        encoder = load_vision_encoder(save_stage1(model, tmp_path / "stage1.pth", 0, {}))
        state = encoder.state_dict()
        for suffix in ("_b", "_c", "_c_b"):
            assert torch.equal(
                state[f"layers.1.mixer.conv1d{suffix}.weight"], model.layers[1].mixer.conv1d.weight
            )
            assert torch.equal(state[f"layers.0.mixer.A{suffix}_log"], model.layers[0].mixer.A_log)
        assert torch.equal(state["pos_embed"][:, 73:], model.pos_embed[:, 72:])
        assert not state["pos_embed"][:, 72].any()  # the new cls row (NOTES A6)
