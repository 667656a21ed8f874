"""`python -m conan_embed`, which is what `torchrun -m conan_embed train ...` needs."""

from conan_embed.cli import main

main()
