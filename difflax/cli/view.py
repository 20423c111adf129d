"""Opens a local page to look through the images of a sweep by arm, prompt and seed, and to vote blindly on
pairs of them; the votes are kept in votes.csv beside the results.

    difflax ablate --workdir=runs/shapes --guidance_scales=1,2,4 --save_images --output=runs/ablation
    difflax view runs/ablation --port=8000

Nothing leaves this machine: the page is served to it alone.
"""

from collections.abc import Sequence

from absl import flags

from difflax.cli.folders import folders_given


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    flags.DEFINE_list(
        "folder",
        [],
        "the --output of `difflax ablate --save_images`, must be given; a bare word is it",
        flag_values=values,
    )
    flags.DEFINE_integer("port", 8000, "port of the page; 0 takes a free one", 0, 65_535, flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Runs the command until Ctrl-C."""
    from difflax.core.types import UserError
    from difflax.evaluation.ablation.pictures import read_pictures
    from difflax.evaluation.ablation.viewer import make_app

    [folder] = folders_given("folder", values.folder, 1, 1)
    app = make_app(read_pictures(folder), folder)
    import logging

    from werkzeug.serving import make_server

    # A line for each picture, with the arm in it, is no help to a blind vote.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)

    try:
        server = make_server("127.0.0.1", values.port, app, threaded=True)
    except (OSError, SystemExit) as error:  # werkzeug leaves by SystemExit where the port is taken
        raise UserError(f"--port={values.port} cannot be had ({error}): give another one") from error
    print(f"http://127.0.0.1:{server.server_port} (Ctrl-C ends it)", flush=True)
    server.serve_forever()
