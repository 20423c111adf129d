"""The embedded world of scenes: what they are made of, how they look, what is said of them, and what is true.

`factors` states the one distribution that scenes are drawn from, `render` draws their pictures, `captions`
names a part of them, `truth` says how everything that a caption leaves open is distributed, `splits` holds
combinations out, and `examples` puts all of it together by seed and number.
"""
