<!-- reserved_parameter_name.pml:3:3: parameter name 'max_tokens'; expected another, as <prompt> has that attribute -->
<schema name="s">
  <parameter name="max_tokens" length="1"/>
</schema>
