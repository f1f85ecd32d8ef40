<!-- unclosed_cdata.pml:5:1: CDATA does not end; expected "]]>" -->
<schema name="s">
  <![CDATA[text
</schema>
