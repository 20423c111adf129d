"""LoRA files against peft and diffusers (PyTorch), in both directions, and against the formula."""

import difflax
import jax
import numpy as np
import pytest
import safetensors.numpy
from difflax.cli.models import read_lora_flag
from difflax.core.types import Conditioning, UserError
from difflax.models.lora import add_factors, by_layer, init_factors, matching_layers
from difflax.pretrained.adapters.lora import LORA_FILE, merge_lora, read_lora, save_lora
from difflax.pretrained.adapters.lora_alphas import ADAPTER_METADATA, read_stated
from difflax.pretrained.families.base import networks_of
from difflax.pretrained.format.torch_names import to_torch
from etils import epath
from flax import traverse_util

from tests.fixtures import make_stable_diffusion as reference
from tests.pretrained.adapters.families import FAMILIES, random_factors


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(family.name, marks=[pytest.mark.slow] if family.name == "sdxl" else [])
        for family in FAMILIES
    ],
)
def family(request):
    return next(family for family in FAMILIES if family.name == request.param)


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return family.build(tmp_path_factory.mktemp("checkpoint") / "checkpoint")


@pytest.fixture(scope="module")
def pipeline(family, folder):
    return difflax.from_pretrained(str(folder), variant="fp16", batch_size=1, **family.options)


@pytest.fixture(scope="module")
def networks(pipeline):
    found = networks_of(pipeline.model.configs, pipeline.model.params, pipeline.model.text_encoder)
    return {name: params for name, params in found.items() if name != "text_encoder_3"}


@pytest.fixture(scope="module")
def saved(family, networks, tmp_path_factory):
    """A file of ours with ``alpha`` other than ``rank``."""
    place = tmp_path_factory.mktemp("ours")
    factors = random_factors(networks, family.targets, family.strength)
    save_lora(place / LORA_FILE, factors, alpha=6.0, targets=family.targets)
    return place


def as_torch(params):
    return {name: np.asarray(tensor) for name, tensor in to_torch(params).items()}


def test_the_change_is_alpha_over_rank_times_b_a(family, saved, networks):
    """In PyTorch's layout, as the paper has it, computed by NumPy from the file alone."""
    tensors = safetensors.numpy.load_file(saved / LORA_FILE)
    merged = merge_lora(saved, networks)
    assert set(merged) == set(family.targets)
    for network in merged:
        before, after = as_torch(networks[network]), as_torch(merged[network])
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        owned = {n.removeprefix(f"{network}.") for n in tensors if n.startswith(f"{network}.")}
        assert changed == {name.replace(".lora_A", "") for name in owned if "lora_A" in name}
        for name in changed:
            down, up = (
                tensors[f"{network}.{name.removesuffix('.weight')}.lora_{part}.weight"].astype(np.float64)
                for part in "AB"
            )
            change = np.tensordot(up.squeeze(), down.squeeze(), 1).reshape(before[name].shape)
            np.testing.assert_allclose(after[name], before[name] + 6.0 / 3.0 * change, rtol=1e-5, atol=1e-6)


def test_several_add_up_with_their_weights_and_nothing_is_nothing(saved, networks):
    once, twice = merge_lora(saved, networks, 0.5), merge_lora(saved, merge_lora(saved, networks, 0.3), 0.2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), once, twice)
    jax.tree.map(np.testing.assert_array_equal, merge_lora(saved, networks, 0.0), networks)


def test_a_file_read_again_is_the_factors_that_were_written(family, saved, networks):
    read = read_lora(saved / LORA_FILE, networks)
    written = random_factors(networks, family.targets, family.strength)
    assert set(read) == set(written)
    for name, changes in read.items():
        pairs = by_layer(written[name])
        assert {one.place.spelled.layers for one in changes} == {(layer,) for layer in pairs}
        for one in changes:
            down, up = pairs[one.place.spelled.layers[0]]
            np.testing.assert_array_equal(one.change.down, down)
            np.testing.assert_array_equal(one.change.up, up)
            assert one.scale == 2.0


def test_fresh_factors_change_nothing_and_have_the_gradient_of_both(family, networks):
    network = networks[family.denoiser]
    factors = init_factors(jax.random.key(0), matching_layers(network, family.layers, "layers"), 4)
    jax.tree.map(np.testing.assert_array_equal, add_factors(network, factors, 1.0), network)
    gaps = [np.asarray(down) for down, _ in by_layer(factors).values()]
    drawn = np.concatenate([g.ravel() for g in gaps])
    assert abs(drawn.std() * 4 - 1) < 0.05  # peft's "gaussian": 1 / rank


@pytest.mark.parametrize(
    "name",
    [
        "prior.mid_block.attentions.0.proj_in",
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
        "lora_unet_x",
    ],
)
def test_a_file_of_a_network_or_layer_that_is_not_there(networks, tmp_path, name):
    """``networks`` are without a T5."""
    path = write(tmp_path / "other.safetensors", {f"{name}.lora_A.weight": np.zeros((2, 8), np.float32)})
    with pytest.raises(UserError, match=f"no LoRA of this model: it has 1 tensor of .*{name}"):
        merge_lora(path, networks)


def kohya(path, family, tensors):
    """The same factors in the layout of kohya's scripts."""
    first = "lora_te_" if len(family.texts) == 1 else "lora_te1_"
    names = {"unet": "lora_unet_", "text_encoder": first, "text_encoder_2": "lora_te2_"}
    out = {}
    for name, tensor in tensors.items():
        network, rest = name.split(".", 1)
        stem, _, part = rest.removesuffix(".weight").rpartition(".")
        stem = names[network] + stem.replace(".", "_")
        out[f"{stem}.{ {'lora_A': 'lora_down', 'lora_B': 'lora_up'}[part] }.weight"] = tensor
        out[f"{stem}.alpha"] = np.array(6.0, np.float32)
    safetensors.numpy.save_file(out, path)


OF_UNETS = pytest.mark.parametrize("family", ["sd15", "sdxl"], indirect=True, scope="module")


@OF_UNETS
def test_kohyas_layout_is_the_same_lora(family, saved, networks, tmp_path):
    kohya(tmp_path / "kohya.safetensors", family, safetensors.numpy.load_file(saved / LORA_FILE))
    ours, theirs = (merge_lora(p, networks) for p in (saved, tmp_path / "kohya.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


class TestAgainstDiffusers:
    """The same file here and there gives the same network and the same image."""

    pytestmark = pytest.mark.parity

    @pytest.fixture(scope="class", autouse=True)
    def needed(self):
        pytest.importorskip("torch")
        pytest.importorskip("peft")

    @pytest.fixture(scope="class")
    def run(self, family, pipeline):
        """Our denoiser, and its inputs in NHWC; of diffusers' network the same."""
        rng = np.random.default_rng(0)
        shape = pipeline.model.autoencoder.latent_shape(family.fixture.HEIGHT, family.fixture.WIDTH)
        encoder = pipeline.model.text_encoder
        context = rng.standard_normal((1, 20, encoder.width)).astype(np.float32)
        pooled = rng.standard_normal((1, encoder.pooled_width)).astype(np.float32)
        given = {
            "sd15": {},
            "sdxl": {"pooled": pooled, "time_ids": np.array([[48.0, 60, 4, 7, 72, 88]], np.float32)},
            "sd3": {"pooled": pooled},
        }
        noise, time = rng.standard_normal((1, *shape)).astype(np.float32), np.array([981.0], np.float32)
        apply = jax.jit(pipeline.model.network.apply)

        def ours(params):
            return np.asarray(apply(params, noise, time, Conditioning(context=context, **given[family.name])))

        def theirs(made):
            import torch

            x, text, vector = map(torch.from_numpy, (noise, context, pooled))
            x, t = x.permute(0, 3, 1, 2), torch.tensor([981])
            with torch.no_grad():
                match family.name:
                    case "sd15":
                        out = made.unet(x, t, text).sample
                    case "sdxl":
                        ids = torch.from_numpy(given[family.name]["time_ids"])
                        added = {"text_embeds": vector, "time_ids": ids}
                        out = made.unet(x, t, text, added_cond_kwargs=added).sample
                    case "sd3":
                        out = made.transformer(x, text, vector, t, return_dict=False)[0]
            return out.permute(0, 2, 3, 1).numpy()

        return ours, theirs, noise

    def compare(self, family, run, plain, made, ours):
        import torch

        apply, reference_of, noise = run
        expected, before = reference_of(made), apply(plain.model.params)
        size = np.abs(expected).max()
        assert np.abs(apply(ours.model.params) - expected).max() / size < 1e-4
        # Without the LoRA it is another output.
        assert np.abs(before - expected).max() / size > 0.05
        settings = {
            "negative_prompt": reference.NEGATIVE,
            "guidance_scale": family.scale,
            "height": family.fixture.HEIGHT,
            "width": family.fixture.WIDTH,
        }
        with torch.no_grad():
            image = made(
                reference.PROMPT,
                num_inference_steps=4,
                latents=torch.from_numpy(noise).permute(0, 3, 1, 2),
                output_type="np",
                **settings,
                **family.call,
            ).images
        found = ours(reference.PROMPT, num_steps=4, latents=noise, **settings)
        assert image.std() > 0.03
        assert np.abs(found - image).max() < 2e-3

    def test_diffusers_reads_ours(self, family, folder, pipeline, saved, run):
        made = family.load(folder)
        made.load_lora_weights(saved)
        made.set_adapters(made.get_active_adapters(), 0.7)
        self.compare(family, run, pipeline, made, pipeline.with_lora([(saved, 0.7)]))

    @pytest.mark.parametrize("kind", ["with its config", "old spelling", "diffusers adapter", "peft adapter"])
    def test_we_read_what_peft_and_diffusers_write(self, family, folder, pipeline, tmp_path, kind, run):
        """``alpha`` is 2 for 4 of rank where the file says so; the old spelling has no place for it."""
        import diffusers
        import peft
        import torch

        made = family.load(folder)
        alpha = 4 if kind == "old spelling" else 2
        layers = ["to_q", "to_k", "to_out.0", "proj_in" if family.denoiser == "unet" else "ff.net.2"]
        config = peft.LoraConfig(r=4, lora_alpha=alpha, target_modules=layers)
        text = peft.LoraConfig(r=4, lora_alpha=alpha, target_modules=["q_proj", "fc2"])
        denoiser = getattr(made, family.denoiser)
        changed = {family.denoiser: denoiser}
        if kind == "peft adapter":
            wrapped = peft.get_peft_model(denoiser, config)
        else:
            denoiser.add_adapter(config)
        if "adapter" not in kind:
            changed |= {name: getattr(made, name) for name in family.texts}
            for name in family.texts:
                # transformers' own add_adapter asks for a newer peft than there is.
                peft.inject_adapter_in_model(text, changed[name])
        generator = torch.Generator().manual_seed(0)
        for network in changed.values():
            for name, parameter in network.named_parameters():
                if "lora_" in name:
                    parameter.data = family.strength * torch.randn(parameter.shape, generator=generator)
        if kind == "peft adapter":
            wrapped.save_pretrained(tmp_path)
        elif kind == "diffusers adapter":
            denoiser.save_lora_adapter(tmp_path)
        else:
            states = {name: peft.get_peft_model_state_dict(network) for name, network in changed.items()}
            facts = {}
            if kind == "old spelling":
                old = diffusers.utils.convert_state_dict_to_diffusers
                states = {name: old(state) for name, state in states.items()}
            else:
                settings = dict.fromkeys(family.texts, text) | {family.denoiser: config}
                facts = {
                    f"{name}_lora_adapter_metadata": {
                        "r": 4,
                        "lora_alpha": alpha,
                        "target_modules": sorted(given.target_modules),
                    }
                    for name, given in settings.items()
                }
            layers = {f"{name}_lora_layers": state for name, state in states.items()}
            made.save_lora_weights(tmp_path, **layers, **facts)
        self.compare(family, run, pipeline, made, pipeline.with_lora([(tmp_path, 1.0)]))

    @OF_UNETS
    def test_kohyas_layout(self, family, folder, pipeline, saved, tmp_path, run):
        path = tmp_path / "kohya.safetensors"
        kohya(path, family, safetensors.numpy.load_file(saved / LORA_FILE))
        made = family.load(folder)
        made.load_lora_weights(path)
        self.compare(family, run, pipeline, made, pipeline.with_lora([(path, 1.0)]))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a/b.safetensors", ("a/b.safetensors", 1.0)),
        ("a/b.safetensors:-0.5", ("a/b.safetensors", -0.5)),
        ("gs://a/b", ("gs://a/b", 1.0)),
        ("gs://a/b:2", ("gs://a/b", 2.0)),
    ],
)
def test_the_flag_of_the_command_line(given, expected):
    assert read_lora_flag(given) == expected
    with pytest.raises(UserError, match="no weight"):
        read_lora_flag(given + ":much")


@pytest.mark.parametrize(
    ("facts", "says"),
    [("{", "is not valid JSON"), ("[]", "holds no mapping"), ('{"unet.r": "four"}', "no number")],
)
def test_damaged_facts_in_a_header(tmp_path, facts, says):
    path = tmp_path / LORA_FILE
    safetensors.numpy.save_file({"a": np.zeros(1)}, path, metadata={ADAPTER_METADATA: facts})
    with pytest.raises(UserError, match=f"its {ADAPTER_METADATA} .*{says}.*: fetch it again"):
        read_stated(epath.Path(path), ["unet"])


def write(path, tensors):
    safetensors.numpy.save_file(tensors, path)
    return path


OF_SD15 = pytest.mark.parametrize("family", ["sd15"], indirect=True, scope="module")


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"unet.nowhere.to_q.lora_A.weight": np.zeros((2, 8))}, "no LoRA of this model.*nowhere"),
        ({"unet.mid_block.attentions.0.proj_in.dora_scale": np.zeros(2)}, "lengths without a change"),
        (
            {"unet.mid_block.attentions.0.proj_in.oft_blocks": np.zeros(2)},
            "1 tensor of OFT: .*Merge it",
        ),
        ({"unet.mid_block.attentions.0.proj_in.invented": np.zeros(2)}, "no method that is known"),
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha": np.zeros(())}, "of text_encoder_2, which it"),
        ({"unet.mid_block.attentions.0.proj_in.alpha": np.zeros(())}, "has alpha alone"),
        (
            {"unet.mid_block.attentions.0.proj_in.lora_A.weight": np.zeros((2, 16, 1, 1))},
            "lora_down without lora_up",
        ),
        (
            {
                "unet.mid_block.attentions.0.proj_in.lora_A.weight": np.zeros((2, 32, 1, 1)),
                "unet.mid_block.attentions.0.proj_in.lora_B.weight": np.zeros((32, 2, 1, 1)),
            },
            r"\(32, 32\) channels and not \(16, 16\)",
        ),
        (
            {
                "unet.mid_block.attentions.0.proj_in.lora_A.weight": np.full((2, 16, 1, 1), np.nan),
                "unet.mid_block.attentions.0.proj_in.lora_B.weight": np.zeros((16, 2, 1, 1)),
            },
            "not finite",
        ),
    ],
)
@OF_SD15
def test_files_that_do_not_fit(networks, tmp_path, tensors, says):
    path = write(tmp_path / "bad.safetensors", {k: v.astype(np.float32) for k, v in tensors.items()})
    with pytest.raises(UserError, match=says) as error:
        read_lora(path, networks)
    assert len(str(error.value).splitlines()) == 1


@OF_SD15
def test_what_is_no_lora(networks, saved, tmp_path):
    with pytest.raises(UserError, match="no pytorch_lora_weights"):
        read_lora(tmp_path, networks)
    with pytest.raises(UserError, match="pickle"):
        read_lora(tmp_path / "lora.bin", networks)
    with pytest.raises(UserError, match="finite"):
        merge_lora(saved, networks, float("nan"))
    with pytest.raises(UserError, match="did you mean 'to_q'"):
        matching_layers(networks["unet"], ["to_qq"], "config.tune.unet")


def test_a_file_that_does_not_say_which_text_encoder(tmp_path):
    name = "text_model.encoder.layers.0.mlp.fc1"
    layer = traverse_util.unflatten_dict({(*name.split("."), "kernel"): np.zeros((24, 48), np.float32)})
    path = write(tmp_path / "bare.safetensors", {f"{name}.lora_A.weight": np.zeros((2, 24), np.float32)})
    with pytest.raises(UserError, match="fc1 is, which text_encoder and text_encoder_2 have"):
        read_lora(path, {"text_encoder": layer, "text_encoder_2": layer})
