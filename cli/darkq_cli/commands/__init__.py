"""The subcommands, by what they are about: their options, their help, and what they do.

`darkq --help` imports these modules. So they import `darkq`, rich and the packages `stack`,
`doctor` and `top` inside functions; types for annotations come from `if TYPE_CHECKING`.
"""
