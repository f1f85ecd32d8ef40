<!-- unclosed_comment.pml:3:3: what begins here does not end; expected ">" -->
<schema name="s">
  <!-- text
</schema>
