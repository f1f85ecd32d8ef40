<!-- text_after_the_end.pml:3:1: more after the last end tag; expected nothing -->
<schema name="s">text</schema>
more
