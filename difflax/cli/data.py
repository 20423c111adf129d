"""Shows what training would see of data: sizes, captions, near copies, and what cannot be used and why.

difflax data inspect --config=configs/shapes.py --output=inspected
difflax data inspect --path=my_images --output=inspected
"""

from collections.abc import Sequence

from absl import flags

from difflax.core.files import writable_folder
from difflax.core.types import UserError

ACTIONS = ("inspect",)


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    from difflax.cli.train import define_config

    action = "what is done, usually given as the word after data; must be given"
    flags.DEFINE_enum("action", None, ACTIONS, action, flag_values=values)
    define_config(values, argv)
    path = (
        "data without a config: a folder of pictures, tar shards or Parquet files, or a pattern of them;"
        " without it: the data of --config"
    )
    flags.DEFINE_string("path", None, path, flag_values=values)
    caption = "of --path, the column or template of the captions; without it: what its layout has"
    flags.DEFINE_string("caption", None, caption, flag_values=values)
    flags.DEFINE_string("split", "train", "the split that is read", flag_values=values)
    tokenizer = (
        "a folder or Hub id with a tokenizer, by which captions that are too long are counted; without it:"
        " that of --config, if it names a text encoder"
    )
    flags.DEFINE_string("tokenizer", None, tokenizer, flag_values=values)
    output = "folder for inspect.json, inspect.html and contact_sheet.png; must be given"
    flags.DEFINE_string("output", None, output, flag_values=values)


def run(values: flags.FlagValues, _: Sequence[str] = ()) -> None:
    """Runs the command."""
    from difflax.cli.train import read_config
    from difflax.config.experiments import parse
    from difflax.runs.inspection import as_text, guess_source, inspect_source, tokenizer_of

    if values.action is None:
        raise UserError(f"data what? difflax data {'|'.join(ACTIONS)} --path=… --output=…")
    if values.output is None:
        raise UserError("give --output=FOLDER")
    if (values.config is None) == (values.path is None):
        raise UserError("give --config=FILE.py or --path=DATA, one of them")
    output = writable_folder(values.output, f"--output={values.output}")
    tokenizer = values.tokenizer
    if values.path is None:
        experiment = parse(read_config(values))
        source, tokenizer = experiment.data, tokenizer or tokenizer_of(experiment)
    else:
        source = guess_source(values.path, values.caption)
    print(as_text(inspect_source(source, values.split, output, tokenizer)))
    print(output / "inspect.html")
