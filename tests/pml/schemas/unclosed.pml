<!-- unclosed.pml:4:1: </schema> closes no open tag; expected </module>, for <module> in line 3 -->
<schema name="s">
  <module name="a">text
</schema>
