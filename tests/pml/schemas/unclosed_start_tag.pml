<!-- unclosed_start_tag.pml:3:3: what begins here does not end; expected ">" -->
<schema name="s">
  <module name="a"
