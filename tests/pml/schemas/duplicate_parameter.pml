<!-- duplicate_parameter.pml:3:57: parameter name 'x' is taken in this module; expected one of its own -->
<schema name="s">
  <module name="a"><parameter name="x" length="2"/> and <parameter name="x" length="2"/></module>
</schema>
