"""Checkpoints of Stable Diffusion 1.x, 2.x and XL in one file, in the original layout."""

import json

import difflax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from difflax.config.pretrained import PretrainedOptions
from difflax.core.types import UserError
from difflax.models.unet import UNet2DConditionModel
from difflax.pretrained.components.text_encoders import EncoderOptions
from difflax.pretrained.families import sd, sdxl
from difflax.pretrained.families.family import Configs, denoiser_network
from difflax.pretrained.open_file import FileOptions, load_file
from difflax.pretrained.single_file.autoencoder import autoencoder_names
from difflax.pretrained.single_file.clip import infer_text_config
from difflax.pretrained.single_file.extras import of_networks
from difflax.runs.load import read_checkpoint
from difflax.text.t5_encoder import ZeroEncoder
from etils import epath

from tests.fixtures import full_width, make_sdxl, make_shapes
from tests.fixtures import make_stable_diffusion as reference
from tests.fixtures import original_layout as original
from tests.runs import command

ATTENTION = [True, True, True, False]


def original_file(folder, path):
    """The pipeline folder as one file, with what training leaves in such files."""
    second = json.loads((folder / "unet/config.json").read_text())["use_linear_projection"]
    unet = safetensors.numpy.load_file(folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    vae = safetensors.numpy.load_file(folder / "vae/diffusion_pytorch_model.fp16.safetensors")
    text = safetensors.numpy.load_file(folder / "text_encoder/model.fp16.safetensors")
    text = {n if n.startswith("text_model.") else f"text_model.{n}": t for n, t in text.items()}
    # Attention in the autoencoder is made of 1 × 1 convolutions there.
    wide = {n: t[..., None, None] if ".attentions.0.to_" in n and t.ndim == 2 else t for n, t in vae.items()}
    groups = {
        "model.diffusion_model.": original.rename(unet, original.unet_modules(ATTENTION, 2)),
        "first_stage_model.": original.rename(wide, original.vae_modules(4, 2)),
    }
    if second:
        groups["cond_stage_model.model."] = original.open_clip(text, 3)
    else:
        text["text_model.embeddings.position_ids"] = np.arange(77)[None]
        groups["cond_stage_model.transformer."] = text
    tensors = {prefix + name: tensor for prefix, group in groups.items() for name, tensor in group.items()}
    tensors |= {"betas": np.zeros(1000), "model_ema.decay": np.zeros(1), "global_step": np.ones(1)}
    safetensors.numpy.save_file(tensors, path)
    return tensors


@pytest.fixture(params=["sd15", "sd21_v"])
def both(request, tmp_path):
    folder = reference.build(request.param, tmp_path / "folder")
    return folder, original_file(folder, tmp_path / "one.safetensors"), tmp_path / "one.safetensors"


def test_the_same_model_as_from_the_folder(both):
    folder, _, path = both
    one = difflax.from_pretrained(str(path), config=str(folder))
    whole = difflax.from_pretrained(str(folder), variant="fp16")
    for name in ("params", "autoencoder_params"):
        jax.tree.map(np.testing.assert_array_equal, getattr(one.model, name), getattr(whole.model, name))
    jax.tree.map(
        np.testing.assert_array_equal, one.model.text_encoder.params, whole.model.text_encoder.params
    )
    assert one.model.configs == whole.model.configs


def test_convert(both, tmp_path):
    folder, _, path = both
    arguments = (f"--pretrained={path}", f"--config={folder}", f"--output={tmp_path / 'out'}")
    assert command("convert", *arguments)[0] == 0
    unet = safetensors.numpy.load_file(folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    made = safetensors.numpy.load_file(tmp_path / "out/unet/diffusion_pytorch_model.safetensors")
    assert set(made) == set(unet)
    for name, tensor in unet.items():
        np.testing.assert_array_equal(made[name], tensor.astype(np.float32))
    status, _, errors = command("convert", *arguments)
    assert status == 2
    assert "not an empty folder" in errors


@pytest.mark.parity
def test_names_are_those_that_diffusers_converts_to(both):
    pytest.importorskip("torch")
    from diffusers.loaders import single_file_utils as theirs

    folder, tensors, _ = both
    config = json.loads((folder / "unet/config.json").read_text())
    expected = theirs.convert_ldm_unet_checkpoint(dict(tensors), config)
    prefix = "model.diffusion_model."
    inside = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    made = sd.unet_names(inside, config)
    assert {n: id(t) for n, t in made.items()} == {n: id(t) for n, t in expected.items()}
    config = json.loads((folder / "vae/config.json").read_text())
    expected = theirs.convert_ldm_vae_checkpoint(dict(tensors), config)
    prefix = "first_stage_model."
    inside = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    assert set(autoencoder_names(inside, config)) == set(expected)


@pytest.mark.parametrize(
    ("lost", "new", "says"),
    [
        ("-", "surprise", "unexpected surprise"),
        ("-", "model.diffusion_model.surprise", "unexpected surprise"),
        ("model.diffusion_model.time_embed.0.weight", None, "missing time_embedding.linear_1.weight"),
        ("first_stage", None, "without tensors under first_stage_model"),
        ("cond_", None, "no tensors under cond_stage_model"),
    ],
)
def test_files_that_do_not_fit(lost, new, says, tmp_path):
    folder = reference.build("sd15", tmp_path / "folder")
    tensors = original_file(folder, tmp_path / "one.safetensors")
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(lost)}
    if new is not None:
        tensors[new] = np.zeros(1)
    safetensors.numpy.save_file(tensors, tmp_path / "one.safetensors")
    with pytest.raises(UserError, match=says):
        difflax.from_pretrained(str(tmp_path / "one.safetensors"), config=str(folder))


EMPTY = np.zeros(0, np.float32)
MARKS = [
    # markers in the file, what is said, whether it predicts v, whether its schedule ends without signal
    ((), {"prediction_type": "epsilon"}, False, False),
    (("v_pred",), {}, True, False),
    (("v_pred", "ztsnr"), {}, True, True),
    (("v_pred", "ztsnr"), {"zero_terminal_snr": False}, True, False),
    (("ztsnr",), {"prediction_type": "v_prediction"}, True, True),
    ((), {"prediction_type": "v_prediction", "zero_terminal_snr": True}, True, True),
    (("v_pred",), {"prediction_type": "epsilon"}, False, False),
]


def check_marks(folder, path, tensors, marks, said, v, zero):
    """How a file with ``marks`` is sampled: the schedule by the rescaling of Lin et al. (2024), algorithm 1,
    and the run's first level. ``folder``: with the configs.
    """
    safetensors.numpy.save_file(tensors | dict.fromkeys(marks, EMPTY), path)
    single = FileOptions(config=folder, **said)
    sampling = load_file(epath.Path(path), EncoderOptions(dtype=jnp.float32), single).sampling
    assert type(sampling.prediction_type).__name__ == ("V" if v else "Epsilon")
    root = np.sqrt(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2))
    right = (root - root[-1]) * root[0] / (root[0] - root[-1]) if zero else root
    alpha, _ = sampling.schedule.alpha_sigma(jnp.arange(1, 1001) / 1000)
    np.testing.assert_allclose(alpha, right, atol=2e-6)
    if zero:
        levels = sampling.options.levels(sampling.schedule, sampling.time_grid, 7, sampling.prediction_type)
        assert levels.t[0] == 1 and float(levels.alpha[0] / levels.sigma[0]) < 1e-3


@pytest.mark.parametrize("mark", MARKS, ids=str)
def test_markers_of_how_it_was_trained(mark, tiny_files):
    for folder, path, tensors in tiny_files:
        check_marks(folder, path, tensors, *mark)


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory):
    """A folder of 1.x and one of 2.x, each with its file in the original layout and the file's tensors."""
    root = tmp_path_factory.mktemp("files")
    folders = [reference.build(name, root / name) for name in ("sd15", "sd21_v")]
    paths = [folder.with_suffix(".safetensors") for folder in folders]
    return [(f, p, original_file(f, p)) for f, p in zip(folders, paths, strict=True)]


def test_flags_say_of_a_file_without_markers_how_it_was_trained(tiny_files, tmp_path):
    folder, path, tensors = tiny_files[0]
    safetensors.numpy.save_file(tensors, path)
    said = ("--prediction_type=v_prediction", "--zero_terminal_snr")
    given = ("convert", f"--pretrained={path}", f"--config={folder}", *said, f"--output={tmp_path / 'out'}")
    status, _, errors = command(*given)
    assert status == 0, errors
    made = json.loads((tmp_path / "out" / "scheduler" / "scheduler_config.json").read_text())
    expected = {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    assert made | expected == made


def test_fine_tuning_starts_from_a_marked_file(tiny_files, tmp_path):
    folder, path, tensors = tiny_files[0]
    safetensors.numpy.save_file(tensors | {"v_pred": EMPTY, "ztsnr": EMPTY}, path)
    options = PretrainedOptions(path=str(path), config=str(folder), dtype="float32")
    sampling = read_checkpoint(options, epath.Path(tmp_path)).sampling
    assert type(sampling.prediction_type).__name__ == "V" and sampling.schedule.zero_terminal_snr


def test_no_signal_at_the_end_does_not_go_with_noise_prediction(tiny_files):
    folder, path, tensors = tiny_files[0]
    safetensors.numpy.save_file(tensors | {"ztsnr": EMPTY}, path)
    with pytest.raises(UserError, match="give prediction_type=v_prediction, or zero_terminal_snr=False"):
        difflax.from_pretrained(str(path), config=str(folder))


@pytest.mark.parametrize(("name", "what"), [("edm_mean", "Playground"), ("edm_vpred.sigma_max", "CosXL")])
def test_what_a_marker_says_and_is_not_read(tiny_files, name, what):
    _, path, tensors = tiny_files[0]
    safetensors.numpy.save_file(tensors | {name: EMPTY}, path)
    with pytest.raises(UserError, match=f"marked by {name}: .*{what}"):
        difflax.from_pretrained(str(path))


HARMLESS = [
    "model_ema.diffusion_modelinput_blocks00weight",
    "model_ema.num_updates",
    "first_stage_model.model_ema.decay",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "betas",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_mean_coef1",
    "log_one_minus_alphas_cumprod",
    "lvlb_weights",
    "logvar",
    "denoiser.sigmas",
    "log_sigmas",
    "scale_factor",
    "global_step",
    "epoch",
    "pytorch-lightning_version",
    "optimizer_states.0.state.0.exp_avg",
    "lr_schedulers.0",
    "callbacks.0",
    "hyper_parameters.lr",
    "first_stage_model.loss.logvar",
    "cond_stage_model.logit_scale",
    "embedding_manager.string_to_param_dict.cat",
    "cond_stage_model.transformer.embeddings.position_ids",
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
    "cond_stage_model.transformer.text_projection.weight",
    "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
    "conditioner.embedders.0.transformer.text_projection.weight",
    "conditioner.embedders.1.model.logit_scale",
]
OF_NETWORKS = [
    "model.diffusion_model.label_emb.0.0.weight",
    "first_stage_model.decoder.more",
    "control_model.input_blocks.0",
    "cond_stage_model.transformer.text_model.more",
    "conditioner.embedders.1.model.text_projection",
    "surprise",
    "depth_model.model.weight",
]


def test_leftovers_of_training_are_read_over_and_nothing_else_is():
    tensors = dict.fromkeys([*HARMLESS, *OF_NETWORKS], EMPTY)
    assert sorted(of_networks(tensors)) == sorted(OF_NETWORKS)


def test_a_file_with_leftovers_is_the_same_model(tiny_files):
    folder, path, tensors = tiny_files[0]
    models = []
    for more in ((), [name for name in HARMLESS if not name.startswith("conditioner")]):
        metadata = {"format": "pt", "modelspec.title": "mine"} if more else None
        safetensors.numpy.save_file(tensors | dict.fromkeys(more, EMPTY), path, metadata=metadata)
        given = FileOptions(config=folder)
        models.append(load_file(epath.Path(path), EncoderOptions(dtype=jnp.float32), given))
    jax.tree.map(np.testing.assert_array_equal, models[0].networks, models[1].networks)
    assert models[0].configs == models[1].configs


class Shaped:
    def __init__(self, shape):
        self.shape = tuple(shape)


def full_size(second):
    """Names and shapes of a full-size checkpoint: those of the configs, turned to the original's names."""
    from difflax.models.autoencoder_kl import AutoencoderKLConfig, autoencoder_network
    from difflax.pretrained.format.torch_names import to_torch

    more = {"cross_attention_dim": 768, "attention_head_dim": 8}
    if second:
        more = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20]}
    config = full_width.UNET | more | {"use_linear_projection": second}
    abstract = denoiser_network(UNet2DConditionModel, json.dumps(config), "float32").abstract()
    unet = original.rename(
        {n: Shaped(t.shape) for n, t in to_torch(abstract).items()}, original.unet_modules(ATTENTION, 2)
    )
    vae_config = AutoencoderKLConfig.from_config(full_width.VAE)
    vae = to_torch(autoencoder_network(vae_config).abstract())
    modules = original.vae_modules(4, 2)
    return config, unet, vae_config, original.rename({n: Shaped(t.shape) for n, t in vae.items()}, modules)


@pytest.mark.parametrize("second", [False, True])
def test_the_structure_is_found_from_names_and_shapes(second):
    from difflax.models.autoencoder_kl import AutoencoderKLConfig

    config, unet, vae_config, vae = full_size(second)
    towers = [sd.STABLE_DIFFUSION.original.towers[second]]
    if second:
        with pytest.raises(UserError, match="v_prediction"):
            sd.infer(unet, vae, towers, None)
    made = Configs(
        family=sd.STABLE_DIFFUSION, **sd.infer(unet, vae, towers, "v_prediction" if second else None)
    )
    assert made.network["block_out_channels"] == [320, 640, 1280, 1280]
    assert made.network["down_block_types"] == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    assert made.network["up_block_types"] == ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    assert made.network["layers_per_block"] == 2
    for key in ("cross_attention_dim", "attention_head_dim", "use_linear_projection"):
        assert made.network[key] == config[key], key
    assert AutoencoderKLConfig.from_config(made.autoencoder) == vae_config
    _, autoencoder, sampling = made.build("float32")
    assert type(sampling.sampler).__name__ == ("DDIM" if second else "CountedPLMS")
    assert autoencoder.latent_shape(512, 512) == (64, 64, 4)


def test_the_text_encoder_is_found_from_names_and_shapes():
    width, text = 1024, {}
    text |= {"token_embedding.weight": Shaped((49408, width)), "positional_embedding": Shaped((77, width))}
    text |= {f"transformer.resblocks.{i}.mlp.c_fc.weight": Shaped((4096, width)) for i in range(24)}
    made = infer_text_config(text, second=True)
    # The published config of Stable Diffusion 2.
    assert (made["num_hidden_layers"], made["num_attention_heads"], made["hidden_act"]) == (23, 16, "gelu")


XL_ATTENTION = {"base": [False, True, True], "refiner": [False, True, True, False]}


def xl_modules(name):
    """diffusers' modules of Stable Diffusion XL's UNet → the original's."""
    vector = {f"add_embedding.linear_{i}": f"label_emb.0.{j}" for i, j in ((1, 0), (2, 2))}
    return original.unet_modules(XL_ATTENTION[name], 2) | vector


class TestXL:
    @pytest.fixture(params=["base", "refiner"])
    def both(self, request, tmp_path):
        """A folder and the file with the same tensors."""
        name, folder = request.param, make_sdxl.build(request.param, tmp_path / "folder")

        def stored(part):
            [path] = (folder / part).glob("*.safetensors")
            return safetensors.numpy.load_file(path)

        def text(part):
            named = stored(part)
            return {n if n.startswith("text_") else f"text_model.{n}": t for n, t in named.items()}

        wide = {
            n: t[..., None, None] if ".attentions.0.to_" in n and t.ndim == 2 else t
            for n, t in stored("vae").items()
        }
        groups = {
            "model.diffusion_model.": original.rename(stored("unet"), xl_modules(name)),
            "first_stage_model.": original.rename(wide, original.vae_modules(4, 2)),
        }
        second = original.open_clip(text("text_encoder_2"), 3, whole=True)
        groups[f"conditioner.embedders.{0 if name == 'refiner' else 1}.model."] = second
        if name == "base":
            positions = {"text_model.embeddings.position_ids": np.arange(77)[None]}
            groups["conditioner.embedders.0.transformer."] = text("text_encoder") | positions
        tensors = {prefix + key: t for prefix, group in groups.items() for key, t in group.items()}
        tensors["denoiser.sigmas"] = np.zeros(1000, np.float32)
        # A safetensors file has no strides.
        tensors = {key: np.ascontiguousarray(t) for key, t in tensors.items()}
        safetensors.numpy.save_file(tensors, tmp_path / "one.safetensors")
        return folder, tmp_path / "one.safetensors"

    def test_the_same_model_as_from_the_folder(self, both):
        folder, path = both
        one = difflax.from_pretrained(str(path), config=str(folder))
        whole = difflax.from_pretrained(str(folder), variant="fp16")
        for name in ("params", "autoencoder_params"):
            jax.tree.map(np.testing.assert_array_equal, getattr(one.model, name), getattr(whole.model, name))
        assert one.model.text_encoder.fingerprint() == whole.model.text_encoder.fingerprint()
        assert one.model.configs == whole.model.configs
        assert one.model.conditions == whole.model.conditions

    def test_markers_of_how_it_was_trained(self, both):
        folder, path = both
        tensors = safetensors.numpy.load_file(path)
        for mark in MARKS[2:5]:
            check_marks(folder, path, tensors, *mark)
        safetensors.numpy.save_file(tensors | {"v_pred": EMPTY, "ztsnr": EMPTY}, path)
        made = difflax.from_pretrained(str(path), config=str(folder)).model
        assert type(made.prediction_type).__name__ == "V" and made.schedule.zero_terminal_snr

    @pytest.mark.parametrize(("name", "list_of"), [("base", "sdxl_unet"), ("refiner", "sdxl_refiner_unet")])
    def test_the_structure_is_found_from_names_and_shapes(self, name, list_of):
        config, tensors = make_shapes.read(list_of)
        shaped = {key: Shaped(shape) for key, shape in tensors.items()}
        unet = original.rename(shaped, xl_modules(name))
        vae = full_size(False)[3]
        first, second, of_refiner = sdxl.STABLE_DIFFUSION_XL.original.towers
        towers = [of_refiner] if name == "refiner" else [first, second]
        made = Configs(family=sdxl.STABLE_DIFFUSION_XL, **sdxl.infer(unet, vae, towers, None))
        depth = config["transformer_layers_per_block"]
        for key, value in made.network.items():
            if key == "transformer_layers_per_block":
                attends = XL_ATTENTION[name]
                wanted = depth if isinstance(depth, list) else [depth] * len(attends)
                # A level without attention has no depth; the middle has the last level's.
                kept = [i for i, reads in enumerate(attends) if reads] + [len(attends) - 1]
                assert [value[i] for i in kept] == [wanted[i] for i in kept]
            elif key != "_class_name":
                assert config[key] == value, key
        assert made.autoencoder["scaling_factor"] == 0.13025
        assert type(made.build("float32")[2].sampler).__name__ == "Euler"
        encoder = ZeroEncoder(length=77, width=2048, pooled_width=1280)
        kind = "size_and_score" if name == "refiner" else "size"
        assert made.family.conditions(made, encoder, "in the file") == ("text", kind)
