<!-- unclosed_at_the_end.pml:4:1: the text ends too early; expected </schema>, for <schema> in line 2 -->
<schema name="s">
  <module name="a">text</module>
